"""Limits the tokens per second of each caller. Plain Python with an injected clock."""

from __future__ import annotations

from collections.abc import Callable


class TokenRate:
    """One token bucket for each identity. It holds the tokens of one second.

    A step may overdraw the bucket, and the following steps wait: a prompt of any size is accepted.
    `tokens_per_second` None means no limit.
    """

    def __init__(self, tokens_per_second: float | None, clock: Callable[[], float]) -> None:
        self._rate = tokens_per_second
        self._clock = clock
        # for each identity: tokens left (negative: overdrawn), and the time of that number
        self._buckets: dict[str, tuple[float, float]] = {}

    def charge(self, identity: str, tokens: int) -> float:
        """Charge tokens to an identity. Returns the seconds to wait before computing them."""
        if self._rate is None:
            return 0.0
        now = self._clock()
        left, since = self._buckets.get(identity, (self._rate, now))
        left = min(self._rate, left + (now - since) * self._rate)
        self._buckets[identity] = (left - tokens, now)
        return max(0.0, -left / self._rate)
