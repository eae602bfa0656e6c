"""Waiting for events. The bounds here only turn a hang into a failure: they claim nothing."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import monotonic, sleep

# Seconds after which something that should happen counts as hanging, on the slowest machine.
PATIENCE = 120.0
# The same for a whole command or conversation, which consists of many such events.
LONG_PATIENCE = 600.0
POLL_INTERVAL = 0.02


def eventually(holds: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something holds."""
    end = monotonic() + patience
    while not holds():
        assert monotonic() < end, "it did not happen"
        sleep(POLL_INTERVAL)


def assert_returns(call: Callable[[], object]) -> None:
    """Run a call on a thread of its own; fail if it blocks."""
    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the call blocks"
