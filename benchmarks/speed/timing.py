"""Times generations token by token: one way for both sides, so that both mean the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
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


@dataclass(frozen=True)
class Batch:
    """Generations that ran at once; the arrivals of all count from the same moment.

    What it tells is of the time in which all of them decoded: from the moment when the last of
    them had its first token until the first of them had its last. Prefills are outside, and so is
    the end, where fewer are left.
    """

    streams: list[Timing]

    @property
    def gaps(self) -> list[float]:
        """Seconds between two tokens of a stream, of all streams."""
        return [later - earlier for part in self._inside() for earlier, later in pairwise(part)]

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together: the sum of each one's rate between its first token inside and
        its last. Counting tokens between two moments instead would lose part of a step where the
        streams take turns."""
        return sum((len(part) - 1) / (part[-1] - part[0]) for part in self._inside())

    def _inside(self) -> list[list[float]]:
        start = max(stream.arrivals[0] for stream in self.streams)
        stop = min(stream.arrivals[-1] for stream in self.streams)
        parts = [[at for at in stream.arrivals if start <= at <= stop] for stream in self.streams]
        if min(map(len, parts)) < 2:
            raise RuntimeError("the streams hardly decoded at once: let them generate more tokens")
        return parts


def time_tokens(tokens: Iterable[int]) -> Timing:
    """Take all tokens from a lazy generation; the clock starts before the first is asked for."""
    started = perf_counter()
    token_ids, arrivals = [], []
    for token in tokens:
        arrivals.append(perf_counter() - started)
        token_ids.append(token)
    return Timing(token_ids, arrivals)
