"""The answers of many sessions, compared with the oracle that runs each session separately."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support.models.oracle import TOLERANCE, Oracle, assert_equal_logits


class Answer(NamedTuple):
    """The logits of the last rows of some tokens, as a session was answered."""

    tokens: tuple[int, ...]
    logits: NDArray[np.float32]


class Greedy(NamedTuple):
    """The tokens that a session chose after others, each the largest logit."""

    tokens: tuple[int, ...]
    chosen: list[int]


class Ledger:
    """Sessions write into it from threads of their own."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.greedy: list[Greedy] = []
        self.done: Counter[str] = Counter()
        self._lock = Lock()

    def did(self, what: str) -> None:
        """Count something that a session did."""
        with self._lock:
            self.done[what] += 1

    def compare(self, oracle: Oracle) -> None:
        """Fail unless every answer is the oracle's for its tokens alone."""
        for tokens, chosen in self.greedy:
            assert_chosen(oracle, tokens, chosen)
        whole: tuple[int, ...] = ()
        # backwards, what continues others comes before them: one run serves them all
        for tokens, logits in sorted(self.answers, key=lambda each: each.tokens, reverse=True):
            if whole[: len(tokens)] != tokens:
                whole, expected = tokens, oracle.logits(tokens)
            alone = expected[len(tokens) - len(logits) : len(tokens)]
            assert_equal_logits(logits, alone)


def assert_chosen(oracle: Oracle, tokens: tuple[int, ...], chosen: list[int]) -> None:
    """Fail unless the oracle chooses the same tokens, as long as its two largest logits differ.

    Among thousands of choices from random weights some are ties within the tolerance of logits,
    which either may win: what comes after one is not compared here.
    """
    alone = oracle.greedy(tokens, len(chosen))
    if chosen == alone:
        return
    differs = next(k for k in range(len(alone)) if chosen[k] != alone[k])
    logits = oracle.logits([*tokens, *alone[:differs]])[-1]
    ours, theirs = logits[[chosen[differs], alone[differs]]]
    assert theirs - ours < 2 * TOLERANCE * np.abs(logits).max(), (
        f"another token than alone after {len(tokens)} + {differs} tokens"
    )
