"""The angles of rotary position embedding (SPEC.md, "What the server computes")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import RopeParameters


def frequencies(rope: RopeParameters, head_dim: int) -> NDArray[np.float64]:
    """Radians a position turns each plane by: float64 [head_dim / 2].

    `rope_type` is "default", "linear" or "llama3", as configurations are read.
    """
    base = rope.rope_theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.rope_type == "linear":
        return base / rope.factor
    if rope.rope_type == "llama3":
        turns = rope.original_max_position_embeddings * base / (2 * np.pi)
        blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        return (1 - blend) * base / rope.factor + blend * base
    return base


def rotate(
    heads: NDArray[np.float32], positions: NDArray[np.int64], frequencies: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Heads [rows, heads, head_dim] turned by positions: one a row, or one for all."""
    angles = positions[:, None, None] * frequencies
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )
