"""Secret orthogonal matrices that are cheap to apply (SPEC.md, "Rotations").

A rotation of size n makes several rounds. Each permutes the values, negates some, and mixes blocks
of them with Hadamard matrices. Blocks are as long as the powers of two that add up to n, so that n
may be any number (Ailon & Chazelle, 2009: a random diagonal between fast orthogonal transforms).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import inverse

ROUNDS = 3

Float32 = NDArray[np.float32]


class LinearMap(Protocol):
    """An orthogonal map of the last axis."""

    def apply(self, x: Float32) -> Float32:
        """x [..., n] as row vectors, mapped: [..., n]."""


class Rotation:
    """The orthogonal matrix Q of size n that a subkey stands for."""

    def __init__(self, key: bytes, n: int) -> None:
        self.n = n
        self._rounds = [_round(key, number, n) for number in range(ROUNDS)]

    def apply(self, x: NDArray[Any]) -> Float32:
        """x [..., n] times Q: float32 [..., n]."""
        y: Float32 = x.astype(np.float32)
        for order, signs in self._rounds:
            y = _mix(np.take(y, order, axis=-1) * signs)
        return y

    def undo(self, y: NDArray[Any]) -> Float32:
        """y [..., n] times the transpose of Q, which is its inverse: float32 [..., n]."""
        x: Float32 = y.astype(np.float32)
        for order, signs in reversed(self._rounds):
            x = np.take(_mix(x) * signs, inverse(order), axis=-1)
        return x


class PlaneRotation:
    """Turns the planes (j, j + d/2) of one head of width d, each by its own angle.

    Plane j, read as the complex number x[j] + i x[j + d/2], is multiplied by e^(i angle): that
    commutes with the rotation that RoPE applies to the same plane.
    """

    def __init__(self, angles: NDArray[np.float64]) -> None:
        """`angles`: radians, float64 [d/2]."""
        self._cosines = np.cos(angles).astype(np.float32)
        self._sines = np.sin(angles).astype(np.float32)

    def apply(self, x: Float32) -> Float32:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate(
            [
                first * self._cosines - second * self._sines,
                first * self._sines + second * self._cosines,
            ],
            axis=-1,
        )


class Signed:
    """Gathers the last axis, then negates the places where `negate` is True."""

    def __init__(self, order: Indices, negate: NDArray[np.bool_] | None = None) -> None:
        self._order = order
        self._signs = None if negate is None else np.where(negate, -1, 1).astype(np.float32)

    def apply(self, x: Float32) -> Float32:
        gathered = np.take(x, self._order, axis=-1)
        return gathered if self._signs is None else gathered * self._signs


class Heads:
    """Maps whole heads: slot k holds head heads[k][0], mapped by heads[k][1]."""

    def __init__(self, heads: Sequence[tuple[int, LinearMap]], head_dim: int) -> None:
        self._heads = heads
        self._head_dim = head_dim

    def apply(self, x: Float32) -> Float32:
        split = x.reshape(*x.shape[:-1], -1, self._head_dim)
        mapped = [each.apply(split[..., head, :]) for head, each in self._heads]
        return np.concatenate(mapped, axis=-1)


def blocks(n: int) -> Iterator[slice]:
    """The ranges that one round mixes, the longest first: powers of two that add up to n."""
    start = 0
    for bit in reversed(range(n.bit_length())):
        if n >> bit & 1:
            yield slice(start, start + (1 << bit))
            start += 1 << bit


def _round(key: bytes, number: int, n: int) -> tuple[Indices, Float32]:
    order = derivation.permutation(derivation.subkey(key, f"round/{number}/permutation"), n)
    negate = derivation.signs(derivation.subkey(key, f"round/{number}/signs"), n)
    return order, np.where(negate, -1, 1).astype(np.float32)


def _mix(x: Float32) -> Float32:
    """Every block of the last axis times its Hadamard matrix over the root of its size."""
    out = np.empty_like(x)
    for block in blocks(x.shape[-1]):
        size = block.stop - block.start
        # Hadamard(a * b) is the Kronecker product of Hadamard(a) and Hadamard(b)
        b = 1 << (size.bit_length() // 2)
        a = size // b
        square = np.ascontiguousarray(x[..., block]).reshape(*x.shape[:-1], a, b)
        mixed = _hadamard(a) @ (square @ _hadamard(b))
        out[..., block] = mixed.reshape(*x.shape[:-1], size)
        out[..., block] *= np.float32(size**-0.5)
    return out


@cache
def _hadamard(size: int) -> Float32:
    """Sylvester's matrix of ones and minus ones, size a power of two: [size, size]."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
