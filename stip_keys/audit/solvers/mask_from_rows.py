"""Recovers the client's mask from known rows and the masked rows that were sent for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stip_keys.masks.derivation import Indices

Float16 = NDArray[np.float16]


def permutation_between(plain: Float16, sent: Float16) -> Indices | None:
    """The p with `sent == plain[:, p]`, None where there is none.

    Columns that are equal in all rows are paired in their order.
    """
    source, target = np.lexsort(plain), np.lexsort(sent)
    if not np.array_equal(plain[:, source], sent[:, target]):
        return None
    p = np.empty(len(source), np.int64)
    p[target] = source
    return p


def rotation_between(plain: Float16, sent: Float16) -> NDArray[np.float32] | None:
    """The orthogonal matrix that takes plain rows nearest to those sent (Schönemann, 1966).

    None where the rows do not determine it: hidden_size independent ones do.
    """
    size = plain.shape[1]
    if len(plain) < size:
        return None  # too few rows: skip the slow decomposition
    left, values, right = np.linalg.svd(plain.astype(np.float32).T @ sent.astype(np.float32))
    if values[-1] < 1e-6 * values[0]:
        return None
    rotation: NDArray[np.float32] = left @ right
    return rotation
