"""The algebra of permutations and signed permutations (SPEC.md, "Permutation algebra").

`x` in space `p` means `x[..., p]`. Nothing here rounds: values are moved or negated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stip_keys.masks.derivation import Indices


def inverse(p: Indices) -> Indices:
    """The permutation q with `x[p][q] == x`."""
    q = np.empty_like(p)
    q[p] = np.arange(len(p))
    return q


def relative(source: Indices, target: Indices) -> Indices:
    """The tau with `source[tau] == target`: it takes a vector in space source to space target."""
    return inverse(source)[target]


def block_diagonal(blocks: Sequence[Indices]) -> Indices:
    """One permutation made of smaller ones, each acting inside its own range."""
    offsets = np.cumsum([0] + [len(block) for block in blocks[:-1]])
    return np.concatenate([block + offset for block, offset in zip(blocks, offsets, strict=True)])


class Mask(Protocol):
    """Takes rows into a secret space, and back."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Rows [..., n] in the secret space."""

    def undo(self, y: NDArray[Any]) -> NDArray[Any]:
        """Rows [..., n] of the secret space as they were."""


class PermutationMask:
    """Moves values and keeps their type."""

    def __init__(self, p: Indices) -> None:
        self.p = p
        self._inverse = inverse(p)

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        return np.take(x, self.p, axis=-1)

    def undo(self, y: NDArray[Any]) -> NDArray[Any]:
        return np.take(y, self._inverse, axis=-1)


@dataclass(frozen=True)
class Gather:
    """Takes one axis of a tensor into a space: `out[k] = ±x[indices[k]]`.

    `indices` None is the identity; `negate` (bool, as long as indices) None negates nothing.
    """

    indices: Indices | None = None
    negate: NDArray[np.bool_] | None = None

    @property
    def is_identity(self) -> bool:
        return self.indices is None and self.negate is None

    def after(self, first: Gather) -> Gather:
        """The gather that applies `first` and then this one."""
        if first.indices is None or self.indices is None:
            assert first.negate is None and self.negate is None  # signs come with indices
            return self if first.indices is None else first
        negate = np.zeros(len(self.indices), np.bool_)
        if first.negate is not None:
            negate ^= first.negate[self.indices]
        if self.negate is not None:
            negate ^= self.negate
        return Gather(first.indices[self.indices], negate if negate.any() else None)

    @property
    def undone(self) -> Gather:
        """The inverse gather."""
        if self.indices is None:
            return self
        back = inverse(self.indices)
        return Gather(back, None if self.negate is None else self.negate[back])


IDENTITY = Gather()


def turn_planes(turns: Indices) -> Gather:
    """Quarter-turns of the planes (j, j + d/2) of one head of width d: turns is int64 [d/2].

    Plane j, read as the complex number x[j] + i x[j + d/2], is multiplied by i**turns[j]; that
    commutes with the rotation RoPE applies to the same plane.
    """
    half = len(turns)
    first, second = np.arange(half), np.arange(half) + half
    swapped = turns % 2 == 1
    indices = np.concatenate([np.where(swapped, second, first), np.where(swapped, first, second)])
    # i**1: (x, y) -> (-y, x);  i**2: (-x, -y);  i**3: (y, -x)
    negate = np.concatenate([(turns == 1) | (turns == 2), (turns == 2) | (turns == 3)])
    return Gather(indices, negate)


def concatenate_heads(heads: Sequence[tuple[int, Gather]], head_dim: int) -> Gather:
    """One gather over whole heads: slot k holds head heads[k][0] under heads[k][1]."""
    indices: list[Indices] = []
    negate: list[NDArray[np.bool_]] = []
    for head, gather in heads:
        inner = np.arange(head_dim) if gather.indices is None else gather.indices
        indices.append(head * head_dim + inner)
        negate.append(np.zeros(head_dim, np.bool_) if gather.negate is None else gather.negate)
    signs = np.concatenate(negate)
    return Gather(np.concatenate(indices), signs if signs.any() else None)
