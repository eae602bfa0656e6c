"""A time limit for a search."""

from __future__ import annotations

from time import monotonic


class Expired(Exception):
    """The time is over."""


class Deadline:
    """Starts when it is created. `seconds` may be infinite."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def check(self) -> None:
        """Raises Expired once the time is over."""
        if monotonic() >= self._end:
            raise Expired
