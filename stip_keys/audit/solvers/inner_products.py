"""Decodes rows by their inner products, which an orthogonal mask keeps within float16's rounding.

Few tokens have the norm of a masked row. The inner products between a few rows single out one
choice among those tokens (`consistent_anchors`). Inner products with rows that are known then name
every other row (`decode`). Solving for the mask would add nothing: inner products with hidden_size
independent known rows are a row's coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import Tokens
from stip_keys.audit.solvers.nearest import nearest, pieces

# An inner product may be wrong by this many standard deviations of its rounding.
TOLERANCE = 6.0
# How many rows' tokens are chosen together, and how many such choices are followed at once.
ANCHORS = 16
BEAM = 4000
# Fewer rows than this may agree by chance.
FEWEST = 4
# Other rows are compared with this many known rows. More take time and add nothing.
REFERENCES = 256


class Products:
    """Inner products of masked rows, and the variance that rounding gives each.

    `values` and `variances`: float64 [rows, rows]; the diagonal holds squared norms.
    """

    def __init__(self, rows: NDArray[np.float16]) -> None:
        exact = rows.astype(np.float64)
        squares = exact**2
        # the error of a float16 is uniform, at most half its spacing
        rounding = np.spacing(np.abs(rows)).astype(np.float64) ** 2 / 12
        self.values = exact @ exact.T
        self.variances = squares @ rounding.T + rounding @ squares.T
        np.fill_diagonal(self.variances, 4 * np.einsum("ij,ij->i", squares, rounding))
        # a mask may round nothing: allow for the error of float32 sums
        self.variances += (1e-6 * self.values.diagonal().mean()) ** 2


def squared_norms(embedding: NDArray[np.float16]) -> NDArray[np.float64]:
    """Of every row of the embedding: float64 [vocab_size]."""
    norms = np.empty(len(embedding))
    for piece in pieces(*embedding.shape):
        rows = embedding[piece].astype(np.float32)
        norms[piece] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return norms


def nearest_norms(products: Products, norms: NDArray[np.float64]) -> Tokens:
    """The tokens of the nearest norms, for every row: int64 [rows, WIDTH]."""
    wanted = products.values.diagonal()[:, None].astype(np.float32)
    return nearest(wanted, norms[:, None])[0]


def tokens_by_products(
    rows: NDArray[np.float16], embedding: NDArray[np.float16]
) -> tuple[Tokens, bool]:
    """The tokens of masked rows [rows, WIDTH], and whether they agree with all inner products.

    Compares only norms where no choice of tokens agrees.
    """
    products, norms = Products(rows), squared_norms(embedding)
    anchors = consistent_anchors(products, embedding, norms)
    if anchors is None:
        return nearest_norms(products, norms), False
    return decode(products, embedding, *anchors), True


def consistent_anchors(
    products: Products, embedding: NDArray[np.float16], norms: NDArray[np.float64]
) -> tuple[NDArray[np.int64], Tokens] | None:
    """Some rows, and the one choice of tokens for them that agrees with all inner products.

    Starts with the rows that have the fewest candidates and follows the likeliest choices. Returns
    None where too few rows agree with any: it is another model, or there are too few rows.
    """
    squares, deviations = products.values.diagonal(), np.sqrt(products.variances.diagonal())
    order = np.argsort(norms)
    first = np.searchsorted(norms[order], squares - TOLERANCE * deviations)
    last = np.searchsorted(norms[order], squares + TOLERANCE * deviations, side="right")
    chosen: list[int] = []
    beam, costs = np.empty((1, 0), np.int64), np.zeros(1)
    refused = 0
    for row in np.argsort(last - first, kind="stable"):
        candidates = order[first[row] : last[row]]
        if not len(candidates):
            refused += 1
            continue
        own = (norms[candidates] - squares[row]) ** 2 / products.variances[row, row]
        known, inverse = np.unique(beam, return_inverse=True)
        table = embedding[candidates].astype(np.float64) @ embedding[known].astype(np.float64).T
        inverse = inverse.reshape(beam.shape)
        total = costs[:, None] + own
        agrees = np.ones(total.shape, np.bool_)
        for column, other in enumerate(chosen):
            error = table[:, inverse[:, column]].T - products.values[row, other]
            error = error**2 / products.variances[row, other]
            agrees &= error < TOLERANCE**2
            total += error
        parents, which = np.nonzero(agrees)
        if not len(parents):
            refused += 1
            if refused > len(chosen) + FEWEST:
                return None
            continue
        kept = np.argsort(total[parents, which], kind="stable")[:BEAM]
        beam = np.column_stack([beam[parents[kept]], candidates[which[kept]]])
        costs = total[parents, which][kept]
        chosen.append(int(row))
        if len(chosen) == ANCHORS:
            break
    if len(chosen) < min(FEWEST, len(squares)) or refused > len(chosen):
        return None
    return np.array(chosen), beam[0]


def decode(
    products: Products, embedding: NDArray[np.float16], rows: NDArray[np.int64], tokens: Tokens
) -> Tokens:
    """Candidates of every row [rows, WIDTH], by its norm and its products with known rows.

    `rows` are the known rows, `tokens` their tokens. One is enough for most rows, a few for all.
    """
    rows, tokens = rows[:REFERENCES], tokens[:REFERENCES]
    known = embedding[tokens].astype(np.float32)
    scales = np.sqrt(
        np.append(products.variances[:, rows].mean(axis=0), products.variances.diagonal().mean())
    )

    def features(table: NDArray[np.float16]) -> NDArray[np.float32]:
        exact = table.astype(np.float32)
        norms = np.einsum("ij,ij->i", exact, exact)
        scaled: NDArray[np.float32] = np.column_stack([exact @ known.T, norms]) / scales
        return scaled.astype(np.float32)

    squares = products.values.diagonal()
    wanted = (np.column_stack([products.values[:, rows], squares]) / scales).astype(np.float32)
    return nearest(wanted, embedding, features)[0]
