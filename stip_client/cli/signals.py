"""What Ctrl-C (SIGINT) and SIGTERM do to a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stip_client.session.generation import Piece


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143), so that `with` blocks close what they opened."""

    def raise_exit(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    previous = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class InterruptibleReply:
    """While entered, Ctrl-C ends `pieces` and sets `stopped` instead of raising.

    Ctrl-C ends a wait for a piece at once. A piece that has arrived is still yielded, so that the
    reply on the screen and the reply in the history are the same. Works in the main thread only.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._waiting = False

    def pieces(self, reply: Iterator[Piece]) -> Iterator[Piece]:
        """The reply's pieces until it ends or is stopped."""
        while not self.stopped:
            try:
                self._waiting = True
                piece = next(reply, None)
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

    def __enter__(self) -> InterruptibleReply:
        self._previous = signal.getsignal(signal.SIGINT)
        # a shell ignores SIGINT for background jobs: leave that as it is
        if self._previous is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)
