"""The keys and values of one session, in permuted space. Touched by the engine's thread only."""

from __future__ import annotations

import mlx.core as mx

# Rows by which a cache grows: large enough that growing is rare, small enough to waste little.
GROWTH = 256


class KVCache:
    """Per layer, keys and values of shape [1, num_key_value_heads, capacity, head_dim].

    `length` rows are valid. A step writes from `length` on and, once it has been evaluated,
    commits by setting `length`; a rollback sets `length` back and what lies beyond is overwritten.
    """

    def __init__(self, num_layers: int, num_heads: int, head_dim: int, dtype: mx.Dtype) -> None:
        self.length = 0
        self._shape = (1, num_heads, GROWTH, head_dim)
        self._dtype = dtype
        self._capacity = 0
        self._keys: list[mx.array] = [mx.zeros(())] * num_layers
        self._values: list[mx.array] = [mx.zeros(())] * num_layers

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of the cache, to be evaluated with the step that wrote it."""
        return self._keys + self._values

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more rows."""
        needed = self.length + rows
        if needed <= self._capacity:
            return
        capacity = -(-needed // GROWTH) * GROWTH
        shape = (*self._shape[:2], capacity - self.length, self._shape[3])
        for arrays in (self._keys, self._values):
            for layer, array in enumerate(arrays):
                # one array a layer: a write goes to the array object itself
                fresh = mx.zeros(shape, self._dtype)
                kept = [array[..., : self.length, :]] if self.length else []
                arrays[layer] = mx.concatenate([*kept, fresh], axis=2) if kept else fresh
        self._capacity = capacity

    def update(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the step's keys and values, [1, heads, rows, head_dim]; return all up to them."""
        end = self.length + keys.shape[2]
        self._keys[layer][..., self.length : end, :] = keys
        self._values[layer][..., self.length : end, :] = values
        return self._keys[layer][..., :end, :], self._values[layer][..., :end, :]
