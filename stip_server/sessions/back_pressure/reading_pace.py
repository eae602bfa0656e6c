"""How well one client reads its answers. Plain Python with an injected clock."""

from __future__ import annotations

from collections.abc import Callable

# Bytes a second that any client should be able to read.
SLOWEST = 1024 * 1024


class Reading:
    """Measures how far a client lags behind one that reads SLOWEST bytes a second.

    Not only how long it leaves one answer unread: it could read one from time to time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lag = 0.0
        self._since: float | None = None
        self._ended = clock()

    def begin(self) -> None:
        """An answer has been given to gRPC, which sends it as the client reads."""
        self._lag, self._since = self.lag, self._clock()

    def end(self, size: int) -> None:
        """It has been sent: `size` bytes."""
        self._lag = max(0.0, self.lag - size / SLOWEST)
        self._since, self._ended = None, self._clock()

    @property
    def sending(self) -> bool:
        """Whether an answer is waiting for the client to read it."""
        return self._since is not None

    @property
    def lag(self) -> float:
        """Seconds. Time in which nothing was left to be read makes up for it: sending takes a
        while on a busy server too."""
        if self._since is None:
            return max(0.0, self._lag - (self._clock() - self._ended))
        return self._lag + self._clock() - self._since
