"""Times a generation token by token: one function for both sides, so that both mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Timing:
    """A generation's tokens, and when each arrived in seconds since it was asked for."""

    token_ids: list[int]
    arrivals: list[float]

    @property
    def first_token(self) -> float:
        """Seconds until the first token: the prefill, and for a client the sending as well."""
        return self.arrivals[0]

    @property
    def per_token(self) -> float:
        """Seconds a token of decoding: all tokens after the first."""
        return (self.arrivals[-1] - self.arrivals[0]) / (len(self.arrivals) - 1)


def time_tokens(tokens: Iterable[int]) -> Timing:
    """Take all tokens from a lazy generation; the clock starts before the first is asked for."""
    started = perf_counter()
    token_ids, arrivals = [], []
    for token in tokens:
        arrivals.append(perf_counter() - started)
        token_ids.append(token)
    return Timing(token_ids, arrivals)
