"""Derivation of permutations, angles and signs from a master key (SPEC.md, "Key derivation").

Knows nothing about models: a place in a model is only a label here.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32
LABEL_PREFIX = "stip/v1/"

Indices = NDArray[np.int64]


def subkey(master: bytes, label: str) -> bytes:
    """HKDF-SHA256-Expand(master, "stip/v1/" + label, 32) (RFC 5869, section 2.3).

    One block of output suffices for 32 bytes, so the expansion is a single HMAC.
    """
    info = (LABEL_PREFIX + label).encode("ascii")
    return hmac.digest(master, info + b"\x01", "sha256")


def permutation(key: bytes, n: int) -> Indices:
    """The permutation of 0..n-1 that a subkey stands for: int64 [n].

    SHAKE-256(key) is read as n little-endian uint64; the permutation is their stable argsort.
    """
    words = np.frombuffer(hashlib.shake_256(key).digest(8 * n), dtype="<u8")
    return np.argsort(words, kind="stable").astype(np.int64)


def quarter_turns(key: bytes, n: int) -> Indices:
    """n quarter-turns, each 0..3: the first n bytes of SHAKE-256(key) modulo 4. int64 [n]."""
    stream = np.frombuffer(hashlib.shake_256(key).digest(n), dtype=np.uint8)
    return (stream % 4).astype(np.int64)


def signs(key: bytes, n: int) -> NDArray[np.bool_]:
    """Which of n values are negated: those whose byte of SHAKE-256(key) is odd. bool [n]."""
    stream = np.frombuffer(hashlib.shake_256(key).digest(n), dtype=np.uint8)
    odd: NDArray[np.bool_] = stream % 2 == 1
    return odd


def angles(key: bytes, n: int) -> NDArray[np.float64]:
    """n angles in radians, float64 [n]: SHAKE-256(key) as little-endian uint64, times 2π / 2^64."""
    words = np.frombuffer(hashlib.shake_256(key).digest(8 * n), dtype="<u8")
    return words.astype(np.float64) * (2 * np.pi / 2**64)


def residual_labels(layer: int, blocks: int) -> list[str]:
    """The blocks of the residual stream's permutation p_layer, layer in 0..num_hidden_layers."""
    return [f"residual/{layer}/block/{block}" for block in range(blocks)]


def heads_label(layer: int) -> str:
    """The order of a layer's key/value heads."""
    return f"layer/{layer}/heads"


def group_label(layer: int, head: int) -> str:
    """The order of the query heads that share the original key/value head `head`."""
    return f"layer/{layer}/group/{head}"


def turns_label(layer: int, head: int) -> str:
    """The quarter-turns of the RoPE planes of the original key/value head `head`."""
    return f"layer/{layer}/turns/{head}"


def value_label(layer: int, head: int) -> str:
    """The permutation of head_dim on the original key/value head `head`."""
    return f"layer/{layer}/value/{head}"


def mlp_label(layer: int) -> str:
    """The permutation of intermediate_size."""
    return f"layer/{layer}/mlp"


def mlp_signs_label(layer: int) -> str:
    """The signs of a layer's hidden units, of the rotation scheme."""
    return f"layer/{layer}/mlp/signs"


ROTATION_LABEL = "rotation"  # the residual stream's rotation, of the rotation scheme
VOCABULARY_LABEL = "vocabulary"  # the order of a sealed vocabulary
