"""The keys and values of one session, in permuted space. Only the engine's thread uses them.

Copying a long session takes long. A method that may copy is a generator that yields after each
layer, so that the engine can show that it lives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.operations.operations import Array, KeysValues, Operations

log = logging.getLogger(__name__)

# Rows by which a cache grows: large enough that growing is rare, small enough to waste little.
GROWTH = 256


def capacity_for(length: int) -> int:
    """Return the rows that a cache allocates for `length` tokens."""
    return -(-length // GROWTH) * GROWTH


def kv_bytes_per_token(config: ModelConfig, itemsize: int) -> int:
    """Return the bytes of keys and values that one token takes over all layers."""
    heads: int = config.num_hidden_layers * config.num_key_value_heads
    return 2 * heads * config.head_dim * itemsize


class KVCache:
    """One storage of keys and values a layer. `length` rows of each are valid.

    A step writes from `length` on. Once it has been evaluated, it commits by setting `length`. A
    rollback sets `length` back; the rows beyond it are overwritten.

    A fork borrows its prefix: it has no storage of its own until it is first written to. Before its
    lender overwrites or drops that prefix, the longest borrower inherits it, and the others borrow
    from that one.
    """

    def __init__(self, config: ModelConfig, operations: Operations) -> None:
        self.length = 0
        # set when the layers cannot be evaluated any more
        self.lost = False
        self._config = config
        self._operations = operations
        self._capacity = 0
        self._layers: list[KeysValues] = []
        self._lender: KVCache | None = None
        self._borrowers: list[KVCache] = []

    @property
    def layers(self) -> list[KeysValues]:
        """The storage of every layer, to be evaluated with the step that wrote to it."""
        return self._layers

    @property
    def nbytes(self) -> int:
        """Bytes that the cache has allocated."""
        return sum(layer.nbytes for layer in self._layers)

    def fork(self, length: int) -> KVCache:
        """Return a cache that begins with the first `length` rows of this one."""
        fork = KVCache(self._config, self._operations)
        fork.length = length
        fork._borrow(self._lender or self)
        return fork

    def bytes_to_copy(self, position: int, rows: int) -> int:
        """Return how many bytes `ensure_capacity` would copy."""
        copied = max((each.length for each in self._displaced(position)), default=0)
        if self._lender is not None or position + rows > self._capacity:
            copied += self.length
        return copied * kv_bytes_per_token(self._config, self._operations.itemsize)

    def ensure_capacity(self, position: int, rows: int) -> Iterator[None]:
        """Allow `rows` rows to be written from `position` on. Yields after each copied layer.

        Where that fails, the cache is as it was.
        """
        yield from self._copy_for(self._displaced(position))
        needed = max(position + rows, self.length)
        if self._lender is not None:
            yield from self._own(needed)
        elif needed > self._capacity:
            yield from self._grow(needed)

    def release(self) -> Iterator[None]:
        """Drop everything but what others borrow, which they inherit. Yields after each copied
        layer."""
        if self._borrowers:
            heir = max(self._borrowers, key=lambda each: each.length)
            if capacity_for(heir.length) == self._capacity:
                heir._inherit(self)
            else:
                yield from self._copy_for(self._borrowers)
        self._return_loan()
        self._layers = []

    def lose(self) -> None:
        """Give up the layers, which cannot be evaluated, and those of every borrower."""
        for borrower in list(self._borrowers):
            borrower.lose()
        self._return_loan()
        self._layers = []
        self._capacity = self.length = 0
        self.lost = True

    def write(self, layer: int, rows: Array) -> KeysValues:
        """Write a step's rows, which Operations.join_keys_values made, and return the storage."""
        self._operations.write(self._layers[layer], self.length, rows)
        return self._layers[layer]

    def _displaced(self, position: int) -> list[KVCache]:
        """The borrowers whose prefix a write at a position would overwrite."""
        return [each for each in self._borrowers if each.length > position]

    def _copy_for(self, borrowers: list[KVCache]) -> Iterator[None]:
        """End these loans: the longest borrower copies, and the others borrow from it."""
        others = sorted(borrowers, key=lambda each: each.length)
        while others:
            heir = others.pop()
            try:
                yield from heir._own(heir.length)
            except Exception:
                log.exception("the copy of a forked session's cache failed")
                heir.lose()
            else:
                for each in others:
                    each._return_loan()
                    each._borrow(heir)
                return

    def _inherit(self, lender: KVCache) -> None:
        """Take the lender's layers, which it does not need any more, and its other borrowers."""
        self._return_loan()
        self._layers, self._capacity = lender._layers, lender._capacity
        for each in list(lender._borrowers):
            each._return_loan()
            each._borrow(self)

    def _own(self, needed: int) -> Iterator[None]:
        """Copy the borrowed prefix into layers of its own, of at least `needed` rows."""
        lender = self._lender
        if lender is None or self.length == 0:
            self._return_loan()
            yield from self._grow(needed)
            return
        layers = []
        for layer in lender._layers:
            layers.append(self._operations.enlarge(layer, self.length, capacity_for(needed)))
            yield
        self._return_loan()
        self._layers, self._capacity = layers, capacity_for(needed)

    def _grow(self, needed: int) -> Iterator[None]:
        """Enlarge one layer at a time to at least `needed` rows: only one exists twice."""
        config, operations = self._config, self._operations
        capacity = capacity_for(needed)
        if self.length == 0:
            self._layers = [
                operations.new_keys_values(config.num_key_value_heads, config.head_dim, capacity)
                for _ in range(config.num_hidden_layers)
            ]
        else:
            for index, layer in enumerate(self._layers):
                self._layers[index] = operations.enlarge(layer, self.length, capacity)
                yield
        self._capacity = capacity

    def _borrow(self, lender: KVCache) -> None:
        self._lender = lender
        lender._borrowers.append(self)

    def _return_loan(self) -> None:
        if self._lender is not None:
            self._lender._borrowers.remove(self)
            self._lender = None
