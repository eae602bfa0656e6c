"""The client's own final norm and head: final hidden states to logits.

The head stays in its memory map. Two threads multiply it block by block, and each holds at most one
block in float32 (SPEC.md, section 4, "Head at the client").
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_client.errors import BundleError
from stip_keys.masks.permutation import Mask
from stip_model.bundle.mapped_tensors import map_tensors

Float32 = NDArray[np.float32]
NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"
# NumPy releases the interpreter lock while it computes. Two cores use the whole memory bandwidth.
THREADS = 2
# Bytes of the table in a block. Its float32 copy stays in the cache, and the threads seldom wait
# for each other. Blocks of half the size took a third longer.
BLOCK_BYTES = 2 * 1024 * 1024


class ClientHead:
    """Makes logits of the final hidden states that a server returns."""

    def __init__(self, norm: NDArray[Any], table: NDArray[Any], mask: Mask) -> None:
        """norm: γ, [hidden_size]. table: [vocab_size, hidden_size]. mask: that of the server's
        hidden states."""
        self._norm = norm.astype(np.float32)
        self._table = table
        self._mask = mask

    def logits(self, hidden_states: NDArray[Any]) -> Float32:
        """The logits of final hidden states [rows, hidden_size], each divided by its root mean
        square and masked: float32 [rows, vocab_size]."""
        x = self._mask.undo(hidden_states).astype(np.float32) * self._norm
        count = len(self._table)
        logits = np.empty((len(x), count), np.float32)
        size = -(-count // THREADS)
        shares = [slice(start, start + size) for start in range(0, count, size)]
        for _ in self._threads.map(
            lambda part: _multiply(x, self._table[part], logits[:, part]), shares
        ):
            pass
        return logits

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, thread_name_prefix="stip-head")


def open_head(path: Path, embeddings: NDArray[Any], model: ModelConfig, mask: Mask) -> ClientHead:
    """The head in a client bundle; a tied head is the table `embeddings`.

    Raises BundleError.
    """
    tensors = map_tensors(path)
    if model.tie_word_embeddings:
        tensors[LM_HEAD] = embeddings
    shapes = {NORM: (model.hidden_size,), LM_HEAD: (model.vocab_size, model.hidden_size)}
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = list(tensors[name].shape) if name in tensors else "none"
            raise BundleError(f"{path}: tensor {name} is {found}, not {list(shape)}")
    return ClientHead(tensors[NORM], tensors[LM_HEAD], mask)


def _multiply(x: Float32, table: NDArray[Any], out: Float32) -> None:
    """`x` [rows, width] times the transpose of `table` [n, width], into `out` [rows, n]."""
    width = x.shape[1]
    rows = max(1, BLOCK_BYTES // (table.itemsize * width))
    if table.dtype == ml_dtypes.bfloat16 and width % 2 == 0:
        # two bfloat16 lie in 32 bits, the even one below: each is the upper half of its float32
        even, odd = np.ascontiguousarray(x[:, 0::2]), np.ascontiguousarray(x[:, 1::2])
        buffer = np.empty((rows, width // 2), np.uint32)
        for part in _blocks(len(table), rows):
            pairs = table[part].view(np.uint32)
            bits = buffer[: len(pairs)]
            np.left_shift(pairs, np.uint32(16), out=bits)
            products = _dots(bits.view(np.float32), even)
            np.bitwise_and(pairs, np.uint32(0xFFFF0000), out=bits)
            np.add(products, _dots(bits.view(np.float32), odd), out=out[:, part])
        return
    for part in _blocks(len(table), rows):
        out[:, part] = _dots(table[part].astype(np.float32, copy=False), x)


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _dots(block: Float32, x: Float32) -> Float32:
    """`x` [rows, width] times the transpose of `block` [n, width]: [rows, n].

    One dot product for each element: for a larger product OpenBLAS would start its own threads,
    which spin while they wait and slow ours down many times.
    """
    products: Float32 = np.matmul(block[:, None, :], x[:, None, :, None])[..., 0, 0]
    return products
