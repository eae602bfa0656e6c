"""The algebra of permutations and signed permutations (SPEC.md, "Permutation algebra").

`x` in space `p` means `x[..., p]`. Nothing here rounds: values are moved or negated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stip_keys.derivation import Indices


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
