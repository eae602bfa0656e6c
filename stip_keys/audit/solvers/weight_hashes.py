"""Signatures of a matrix's rows and columns that permutations and signs do not change.

A column's signature is the sum, modulo 2^64, of its values' hashes, so the order does not count. A
row's signature multiplies the hashes with one factor for each column. It depends on which value is
in which column, and is used once the order of the columns is known.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.solvers.nearest import pieces
from stip_keys.masks.derivation import Indices

Hashes = NDArray[np.uint64]
# How many copies of a piece of a matrix are in memory while it is hashed.
TEMPORARIES = 16


def stored_type(values: NDArray[np.float32]) -> np.dtype[Any]:
    """The narrowest of bfloat16, float16 and float32 that holds all values exactly.

    Real weights never all fit into a narrower type than their own by chance.
    """
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)):
        with np.errstate(over="ignore"):
            if np.array_equal(values.astype(dtype).astype(np.float32), values):
                return dtype
    return np.dtype(np.float32)


def column_signatures(matrix: NDArray[np.float32], dtype: np.dtype[Any]) -> Hashes:
    """Signatures of the columns of a matrix rounded to `dtype`: uint64 [columns]."""
    total = np.zeros(matrix.shape[1], np.uint64)
    for piece in pieces(len(matrix), matrix.shape[1] * TEMPORARIES):
        total += _hashes(matrix[piece], dtype).sum(axis=0, dtype=np.uint64)
    return total


def row_signatures(
    matrix: NDArray[np.float32], dtype: np.dtype[Any], columns: Indices | None
) -> Hashes:
    """Signatures of its rows: uint64 [rows]. Column k stands for column columns[k].

    If `columns` is None, the order of values does not count.
    """
    total = np.empty(len(matrix), np.uint64)
    factors = None if columns is None else _mix(columns.astype(np.uint64)) | np.uint64(1)
    for piece in pieces(len(matrix), matrix.shape[1] * TEMPORARIES):
        hashes = _hashes(matrix[piece], dtype)
        if factors is not None:
            hashes *= factors
        total[piece] = hashes.sum(axis=1, dtype=np.uint64)
    return total


def joined(signatures: list[Hashes]) -> Hashes:
    """One signature from several signatures of the same rows or columns."""
    total = np.zeros_like(signatures[0])
    for each in signatures:
        total = _mix(total ^ each)
    return total


def pairing(found: Hashes, known: Hashes) -> Indices | None:
    """The p with `found == known[p]`, equal ones paired in order; None where there is none."""
    source, target = np.argsort(known, kind="stable"), np.argsort(found, kind="stable")
    if not np.array_equal(known[source], found[target]):
        return None
    p = np.empty(len(source), np.int64)
    p[target] = source
    return p


def is_ambiguous(known: Hashes) -> bool:
    """Whether two of the signatures are equal."""
    return len(np.unique(known)) < len(known)


def _hashes(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Hashes:
    with np.errstate(over="ignore"):
        magnitudes = np.abs(values).astype(dtype).astype(np.float32)
    return _mix(magnitudes.view(np.uint32).astype(np.uint64))


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al., 2014): every bit depends on all."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
