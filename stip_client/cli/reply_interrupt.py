"""Ctrl-C that stops a reply between two pieces, and never while one is dealt with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType, TracebackType

from stip_client.session.generation import Piece


class Stopping:
    """While it is entered, Ctrl-C ends `each` and sets `stopped`, instead of raising.

    A wait for a piece ends at once. A piece that has come is handed on before the end, so that
    what is shown of a reply and what is kept of it are the same. For the main thread alone.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._waiting = False

    def each(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces until the reply ends or is stopped."""
        while not self.stopped:
            try:
                self._waiting = True
                piece = next(pieces, None)
            except KeyboardInterrupt:
                return
            finally:
                self._waiting = False
            if piece is None:
                return
            yield piece

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        self.stopped = True
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def __enter__(self) -> Stopping:
        self._previous = signal.getsignal(signal.SIGINT)
        if self._previous is not signal.SIG_IGN:  # a shell ignores it for what runs in background
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._previous)
