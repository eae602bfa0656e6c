"""The keys and values of one session, in permuted space. Touched by the engine's thread only.

Copying a long session takes long: what copies is a generator that stops after each layer, so that
the engine can show that it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import mlx.core as mx

from stip_server.sessions.kv_memory import capacity_for

log = logging.getLogger(__name__)


class KVCache:
    """A layer's keys and values in one array, [2, num_key_value_heads, capacity, head_dim], so that
    a step writes both at once: on a GPU every write is a kernel launch.

    `length` rows are valid. A step writes from `length` on and, once it has been evaluated,
    commits by setting `length`; a rollback sets `length` back and what lies beyond is overwritten.

    A fork borrows its prefix: it has no arrays of its own until it is first written to. When its
    lender is about to overwrite or drop that prefix, the longest of those who borrow it inherits
    it, and the others borrow from that one.
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
        fork._borrow(self._lender or self)
        return fork

    def copying(self, position: int, rows: int) -> int:
        """Bytes that are copied before `rows` rows can be written from `position` on."""
        copied = max((each.length for each in self._displaced(position)), default=0)
        if self._lender is not None or position + rows > self._capacity:
            copied += self.length
        layers, heads, head_dim = self._dimensions
        return copied * layers * 2 * heads * head_dim * int(self._dtype.size)

    def make_room(self, position: int, rows: int) -> Iterator[None]:
        """Make room for `rows` rows from `position` on. Stops after each layer that was copied.

        Where that fails, the cache is as it was.
        """
        yield from self._leave(self._displaced(position))
        needed = max(position + rows, self.length)
        if self._lender is not None:
            yield from self._own(needed)
        elif needed > self._capacity:
            yield from self._grow(needed)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more rows, which are about to be written."""
        for _ in self.make_room(self.length, rows):
            pass

    def release(self) -> Iterator[None]:
        """Drop everything but what others borrow, which they inherit. Stops as make_room does."""
        if self._borrowers:
            heir = max(self._borrowers, key=lambda each: each.length)
            if capacity_for(heir.length) == self._capacity:
                heir._inherit(self)
            else:
                yield from self._leave(self._borrowers)
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

    def _displaced(self, position: int) -> list[KVCache]:
        """Those whose borrowed prefix a write at a position would overwrite."""
        return [each for each in self._borrowers if each.length > position]

    def _leave(self, borrowers: list[KVCache]) -> Iterator[None]:
        """Let some no longer borrow from this cache: the longest copies, the others borrow it."""
        left = sorted(borrowers, key=lambda each: each.length)
        while left:
            heir = left.pop()
            try:
                yield from heir._own(heir.length)
            except Exception:
                log.exception("the copy of a forked session's cache failed")
                heir.lose()
            else:
                for each in left:
                    each._return_loan()
                    each._borrow(heir)
                return

    def _inherit(self, lender: KVCache) -> None:
        """Take the lender's arrays, which it does not need any more; others borrow from here."""
        self._return_loan()
        self._arrays, self._capacity = lender._arrays, lender._capacity
        for each in list(lender._borrowers):
            each._return_loan()
            each._borrow(self)

    def _own(self, needed: int) -> Iterator[None]:
        """Copy the borrowed prefix into arrays of its own with room for `needed` rows."""
        lender = self._lender
        if lender is None or self.length == 0:
            self._return_loan()
            yield from self._grow(needed)
            return
        arrays = []
        for old in lender._arrays:
            arrays.append(self._enlarged(old, capacity_for(needed)))
            yield
        self._return_loan()
        self._arrays, self._capacity = arrays, capacity_for(needed)

    def _grow(self, needed: int) -> Iterator[None]:
        """Move to arrays with room for `needed` rows, a layer at a time: none is there twice."""
        layers, heads, head_dim = self._dimensions
        capacity = capacity_for(needed)
        if self.length == 0:
            # zeros for each layer: a write goes to the array object itself
            shape = (2, heads, capacity, head_dim)
            self._arrays = [mx.zeros(shape, self._dtype) for _ in range(layers)]
        else:
            for layer in range(layers):
                self._arrays[layer] = self._enlarged(self._arrays[layer], capacity)
                yield
        self._capacity = capacity

    def _enlarged(self, old: mx.array, capacity: int) -> mx.array:
        """A copy of the first `length` rows of a layer with room for `capacity`, evaluated."""
        _, heads, head_dim = self._dimensions
        fresh = mx.zeros((2, heads, capacity - self.length, head_dim), self._dtype)
        enlarged = mx.concatenate([old[:, :, : self.length], fresh], axis=2)
        mx.eval(enlarged)
        return enlarged

    def _borrow(self, lender: KVCache) -> None:
        self._lender = lender
        lender._borrowers.append(self)

    def _return_loan(self) -> None:
        if self._lender is not None:
            self._lender._borrowers.remove(self)
            self._lender = None


def lost_cache() -> KVCache:
    """A cache that never was: a fork of one that is lost."""
    cache = KVCache(0, 0, 0, mx.float32)
    cache.lose()
    return cache
