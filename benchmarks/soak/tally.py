"""What the clients did and saw, counted by all of their threads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from threading import Lock

import grpc

from tests.support.wire.requests import Refusal

SHOWN = 20


class Tally:
    """Counts of actions and statuses, and whatever should not have happened."""

    def __init__(self, documented: Collection[tuple[str, str]]) -> None:
        self._documented = documented
        self._lock = Lock()
        self.actions: Counter[str] = Counter()
        self.statuses: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def count(self, action: str, times: int = 1) -> None:
        with self._lock:
            self.actions[action] += times

    def fail(self, text: str) -> None:
        """Note what should not have happened; the first of them are printed at once."""
        with self._lock:
            self.failures.append(text)
            if len(self.failures) <= SHOWN:
                print(f"FAILURE: {text}", file=sys.stderr, flush=True)

    def refused(
        self, action: str, refusal: Refusal, allowed: Collection[grpc.StatusCode] = ()
    ) -> None:
        """Count a status. It must be documented, and one of those that the action may end with."""
        pair = (refusal.code.name, refusal.reason)
        with self._lock:
            self.statuses[pair] += 1
        if pair not in self._documented:
            self.fail(f"{action}: {pair} is not documented: {refusal.message}")
        elif refusal.code not in allowed:
            self.fail(f"{action}: {pair} does not fit: {refusal.message}")

    def compare(self, action: str, token: int, expected: int) -> None:
        """Count an answer, which must be the one that the prompt has when it is alone."""
        self.count("answers compared")
        if token != expected:
            self.count("wrong answers")
            self.fail(f"{action}: token {token} instead of {expected}")
