"""The tokens of the largest logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import WIDTH, Tokens
from stip_keys.audit.solvers.nearest import pieces


def largest(logits: NDArray[Any]) -> Tokens:
    """The WIDTH largest logits of each row, largest first: int64 [rows, WIDTH]."""
    return np.argsort(-logits.astype(np.float32), axis=1, kind="stable")[:, :WIDTH]


def largest_by_head(states: NDArray[np.float32], head: NDArray[np.float32]) -> Tokens:
    """The same for normalised final states [rows, hidden_size] that pass through a head."""
    return largest(
        np.concatenate([states @ head[piece].T for piece in pieces(len(head), len(states))], axis=1)
    )
