"""Derivation of permutations and quarter-turns from a master key (SPEC.md, "Key derivation").

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


def residual_block_label(layer: int, block: int) -> str:
    """Block `block` of the residual stream's permutation p_layer, layer in 0..num_hidden_layers."""
    return f"residual/{layer}/block/{block}"


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
