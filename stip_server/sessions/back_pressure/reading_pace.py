"""Measures how well one client reads its answers. Plain Python with an injected clock."""

from __future__ import annotations

from collections.abc import Callable

# Bytes a second that every client should be able to read.
SLOWEST_PACE = 1024 * 1024


class ReadingPace:
    """Measures how far a client lags behind one that reads SLOWEST_PACE bytes a second.

    The age of the unread answer is not enough: a client could read one answer from time to time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lag = 0.0
        self._began: float | None = None
        self._ended = clock()

    def begin(self) -> None:
        """gRPC has begun to send an answer."""
        self._lag, self._began = self.lag, self._clock()

    def end(self, size: int) -> None:
        """The answer, of `size` bytes, has been sent."""
        self._lag = max(0.0, self.lag - size / SLOWEST_PACE)
        self._began, self._ended = None, self._clock()

    @property
    def sending(self) -> bool:
        """Whether an answer waits for the client to read it."""
        return self._began is not None

    @property
    def lag(self) -> float:
        """Seconds. Time without an unread answer reduces it: a busy server sends slowly too."""
        if self._began is None:
            return max(0.0, self._lag - (self._clock() - self._ended))
        return self._lag + self._clock() - self._began
