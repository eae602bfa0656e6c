"""How similar a masked and a plain hidden state are, by what the mask does not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.solvers.nearest import sorted_values

Float32 = NDArray[np.float32]


@dataclass
class SortedValues:
    """Compares sorted values, which a permutation does not change."""

    def distances(
        self, states: Float32, embedded: Float32, masked: Float32, sent: NDArray[Any]
    ) -> Float32:
        """The relative distance of each of `states` [candidates, hidden_size] from `masked`.

        `embedded` are the candidates' rows as they would enter the first layer. `sent` is the row
        that did enter it.
        """
        del embedded, sent
        difference = sorted_values(states) - sorted_values(masked)
        relative: Float32 = np.linalg.norm(difference, axis=1) / np.linalg.norm(masked)
        return relative

    def learn(self, state: Float32, embedded: Float32, masked: Float32, sent: NDArray[Any]) -> None:
        """Nothing to learn: sorted values of one state say nothing about the next."""


@dataclass
class InnerProducts:
    """Compares inner products, which a rotation does not change.

    A state's products with itself, with its own row sent, and with the states and rows decoded
    before it: one rotation holds for all of them.
    """

    _plain: list[Float32] = field(default_factory=list)
    _masked: list[Float32] = field(default_factory=list)

    def distances(
        self, states: Float32, embedded: Float32, masked: Float32, sent: NDArray[Any]
    ) -> Float32:
        """The root mean square error of the products, each relative to its vectors' norms."""
        row = sent.astype(np.float32)
        norm = np.linalg.norm(masked)
        errors = [
            (np.einsum("ij,ij->i", states, states) - masked @ masked) / norm**2,
            (np.einsum("ij,ij->i", states, embedded) - masked @ row) / (norm * np.linalg.norm(row)),
        ]
        if self._masked:
            known = np.array(self._masked)
            products = states @ np.array(self._plain).T - known @ masked
            errors += list((products / (norm * np.linalg.norm(known, axis=1))).T)
        mean: Float32 = np.sqrt(np.mean(np.square(errors), axis=0))
        return mean

    def learn(self, state: Float32, embedded: Float32, masked: Float32, sent: NDArray[Any]) -> None:
        """Keep a decoded state and its row, to compare the next states with them."""
        self._plain += [state, embedded]
        self._masked += [masked, sent.astype(np.float32)]


Likeness = SortedValues | InnerProducts
