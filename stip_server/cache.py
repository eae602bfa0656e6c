"""The keys and values of one session, in permuted space. Touched by the engine's thread only."""

from __future__ import annotations

import logging

import mlx.core as mx

from stip_server.memory import capacity_for

log = logging.getLogger(__name__)


class KVCache:
    """A layer's keys and values in one array, [2, num_key_value_heads, capacity, head_dim], so that
    a step writes both at once: on a GPU every write is a kernel launch.

    `length` rows are valid. A step writes from `length` on and, once it has been evaluated,
    commits by setting `length`; a rollback sets `length` back and what lies beyond is overwritten.

    A fork borrows its prefix: it has no arrays of its own until it is first written to, or until
    its lender is about to overwrite or drop that prefix.
    """

    def __init__(self, num_layers: int, num_heads: int, head_dim: int, dtype: mx.Dtype) -> None:
        self.length = 0
        self._dimensions = (num_layers, num_heads, head_dim)
        self._dtype = dtype
        self._capacity = 0
        self._arrays: list[mx.array] = []
        # set when the arrays cannot be computed any more
        self.lost = False
        self._lender: KVCache | None = None
        self._borrowers: list[KVCache] = []

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of the cache, to be evaluated with the step that wrote it."""
        return self._arrays

    @property
    def nbytes(self) -> int:
        """Bytes that the cache has allocated."""
        return sum(array.nbytes for array in self._arrays)

    def fork(self, length: int) -> KVCache:
        """A cache that begins with the first `length` rows of this one."""
        fork = KVCache(*self._dimensions, self._dtype)
        fork.length = length
        fork._lender = self._lender or self
        fork._lender._borrowers.append(fork)
        return fork

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more rows, which are about to be written."""
        for borrower in [each for each in self._borrowers if each.length > self.length]:
            # what it borrows is about to be overwritten
            borrower._stand_alone()
        needed = self.length + rows
        if self._lender is not None:
            self._own(rows)
        elif needed > self._capacity:
            self._grow(needed, self._arrays)

    def release(self) -> None:
        """Drop everything; whoever borrows from this cache takes a copy first."""
        for borrower in list(self._borrowers):
            borrower._stand_alone()
        self._return_loan()
        self._arrays = []

    def lose(self) -> None:
        """Give up the arrays, which cannot be evaluated; so must whoever borrows from them."""
        for borrower in list(self._borrowers):
            borrower.lose()
        self._return_loan()
        self._arrays = []
        self._capacity = self.length = 0
        self.lost = True

    def update(self, layer: int, keys_values: mx.array) -> tuple[mx.array, mx.array]:
        """Write a step's keys and values, [2, heads, rows, head_dim]; return all up to them, each
        [1, heads, length + rows, head_dim]."""
        end = self.length + keys_values.shape[2]
        array = self._arrays[layer]
        array[..., self.length : end, :] = keys_values
        return array[:1, :, :end], array[1:, :, :end]

    def _stand_alone(self) -> None:
        """Copy what is borrowed, now."""
        self._own(0)
        try:
            mx.eval(self._arrays)
        except Exception:
            log.exception("the copy of a forked session's cache failed")
            self.lose()

    def _own(self, rows: int) -> None:
        """Copy the borrowed prefix into arrays of its own with room for `rows` more rows."""
        lender = self._lender
        if lender is None:
            return
        self._return_loan()
        self._grow(self.length + rows, lender._arrays)

    def _return_loan(self) -> None:
        if self._lender is not None:
            self._lender._borrowers.remove(self)
            self._lender = None

    def _grow(self, needed: int, prefix: list[mx.array]) -> None:
        """Allocate room for `needed` rows behind a copy of the first `length` rows of `prefix`."""
        layers, heads, head_dim = self._dimensions
        self._capacity = capacity_for(needed)
        fresh = (2, heads, self._capacity - self.length, head_dim)
        # zeros, not one array for all layers: a write goes to the array object itself
        grown = [mx.zeros(fresh, self._dtype) for _ in range(layers)]
        if self.length:
            grown = [
                mx.concatenate([old[:, :, : self.length], new], axis=2)
                for old, new in zip(prefix, grown, strict=True)
            ]
        self._arrays = grown


def lost_cache() -> KVCache:
    """A cache that never was: a fork of one that is lost."""
    cache = KVCache(0, 0, 0, mx.float32)
    cache.lose()
    return cache
