"""Holds callers to a number of tokens a second. Plain Python with an injected clock."""

from __future__ import annotations

from collections.abc import Callable


class TokenRate:
    """A bucket of tokens for each identity: a step may overdraw it, and the next one waits.

    So a prompt of any size is taken, and is paid for by what follows. A bucket holds one second's
    tokens. None is no limit.
    """

    def __init__(self, tokens_per_second: float | None, clock: Callable[[], float]) -> None:
        self._rate = tokens_per_second
        self._clock = clock
        # of each identity the tokens left (negative: owed), and when that was so
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, identity: str, tokens: int) -> float:
        """Take tokens; the seconds to wait before they may be computed."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        left, since = self._buckets.get(identity, (self._rate, now))
        left = min(self._rate, left + (now - since) * self._rate)
        self._buckets[identity] = (left - tokens, now)
        return max(0.0, -left / self._rate)
