"""Rotary position embedding: the angles of a batch of positions.

Angles are float64 on the host: a batch needs few of them, every layer shares them, and no precision
is lost at long positions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import RopeParameters
from stip_model.errors import BundleError


def inverse_frequencies(rope: RopeParameters, head_dim: int) -> NDArray[np.float64]:
    """Return the radians that a position advances each plane by: float64 [head_dim / 2].

    "llama3" is the frequency-dependent interpolation of Llama 3.1 (transformers,
    modeling_rope_utils.py, _compute_llama3_parameters). Raises BundleError for another type.
    """
    frequencies = rope.rope_theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.rope_type == "default":
        return frequencies
    if rope.rope_type == "linear":
        return frequencies / rope.factor
    if rope.rope_type == "llama3":
        wavelengths = 2 * math.pi / frequencies
        original = rope.original_max_position_embeddings
        smooth = (original / wavelengths - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        blend = np.clip(smooth, 0.0, 1.0)
        return (1 - blend) * frequencies / rope.factor + blend * frequencies
    raise BundleError(f"manifest: rope_type {rope.rope_type!r} is not supported")


def cosines_and_sines(
    positions: NDArray[np.int64], frequencies: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two arrays of every position and plane: float32 [positions, 1, head_dim / 2]."""
    angles = positions[:, None, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
