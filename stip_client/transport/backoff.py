"""How long to wait before another attempt: arithmetic with an injected clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

from stip_client.errors import ClientError

FIRST = 0.1
LONGEST = 5.0


class Backoff:
    """Pauses that double from one failure to the next, with jitter, until patience ends.

    A pause is drawn between half of its bound and the bound, so that clients of one lost server
    return at different times (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
    """

    def __init__(
        self,
        patience: float,
        *,
        clock: Callable[[], float] = monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """patience: seconds from the first failure, after which there is no other attempt."""
        self._patience = patience
        self._clock = clock
        self._draw = draw
        self._end: float | None = None
        self._bound = FIRST
        self.attempts = 0  # failed attempts

    def begin(self) -> Backoff:
        """Count patience from now, instead of from the first failure."""
        self._end = self._clock() + self._patience
        return self

    @property
    def left(self) -> float:
        """Seconds of patience that remain."""
        return self._patience if self._end is None else max(0.0, self._end - self._clock())

    def pause(self, error: ClientError, *, elsewhere: bool = False) -> float:
        """Seconds to wait after a failure. Raises `error` if patience ends before.

        The pause is at least what the server asks for, unless the next attempt is made `elsewhere`.
        """
        asked = 0.0 if elsewhere else error.retry_after or 0.0
        if self._end is None:
            self.begin()
        self.attempts += 1
        bound, self._bound = self._bound, min(2 * self._bound, LONGEST)
        seconds = max(bound * (1 + self._draw()) / 2, asked)
        left = self.left
        if left <= 0 or asked > left:
            raise error
        return min(seconds, left)
