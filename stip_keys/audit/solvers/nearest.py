"""The nearest rows of a table by distance, exhaustively, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import WIDTH, Tokens

# Bytes of float32 that a piece of a table, or its distances, may take.
PIECE_BYTES = 128 * 1024 * 1024

Float32 = NDArray[np.float32]
Prepare = Callable[[NDArray[Any]], Float32]


def _as_float32(rows: NDArray[Any]) -> Float32:
    return rows.astype(np.float32, copy=False)


def sorted_values(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows with their values in ascending order: float32 of the same shape."""
    return np.sort(rows.astype(np.float32), axis=-1)


def pieces(length: int, row_width: int) -> Iterator[slice]:
    """Ranges of a table's rows that take at most PIECE_BYTES as float32."""
    step = max(1, PIECE_BYTES // (4 * max(1, row_width)))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def nearest(
    queries: Float32, table: NDArray[Any], prepare: Prepare = _as_float32, width: int = WIDTH
) -> tuple[Tokens, NDArray[np.float64]]:
    """The rows of `prepare(table)` nearest to each query: indices and squared distances.

    Both are [queries, ≤ width], nearest first; equal distances keep the table's order. `prepare`
    gets a few rows at a time. Candidates are found by matrix products in float32, after a common
    mean is subtracted. The distances of the best are then computed again in float64.
    """
    width = min(width, len(table))
    wanted = min(2 * width, len(table))
    centre = queries.mean(axis=0)
    centred = queries - centre
    best = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for piece in pieces(len(table), max(queries.shape[1], len(queries))):
        rows = prepare(table[piece]) - centre
        # the squared distance, without the query's own square, which is the same for all rows
        score = np.einsum("ij,ij->i", rows, rows) - 2 * (centred @ rows.T)
        score = np.concatenate([scores, score], axis=1)
        index = np.concatenate(
            [best, np.broadcast_to(np.arange(piece.start, piece.stop), (len(queries), len(rows)))],
            axis=1,
        )
        kept = np.argpartition(score, min(wanted, score.shape[1]) - 1, axis=1)[:, :wanted]
        best, scores = np.take_along_axis(index, kept, 1), np.take_along_axis(score, kept, 1)
    exact = np.empty(best.shape, np.float64)
    for query, (row, indices) in enumerate(zip(queries, best, strict=True)):
        difference = prepare(table[indices]).astype(np.float64) - row
        exact[query] = np.einsum("ij,ij->i", difference, difference)
    order = np.lexsort((best, exact), axis=1)[:, :width]
    return np.take_along_axis(best, order, 1), np.take_along_axis(exact, order, 1)
