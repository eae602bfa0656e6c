"""What SIGTERM does to a command that has something to close or to remove."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminate_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that nothing is left behind; status 143."""

    def unwind(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    previous = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
