"""The signals that end the server, and the time that running steps get then."""

from __future__ import annotations

import asyncio
import logging
import signal

from stip_server.observe.logs import event
from stip_server.rpc.open_streams import OpenStreams

log = logging.getLogger(__name__)


class Signals:
    """Counts the signals that ask the server to stop, from when it is made; on the event loop."""

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._arrived)

    def is_set(self) -> bool:
        """Whether one has come."""
        return self._first.is_set()

    async def wait(self) -> None:
        """Wait for the first."""
        await self._first.wait()

    async def wait_for_second(self) -> None:
        """Wait for one that comes after the first."""
        await self._second.wait()

    def _arrived(self) -> None:
        (self._second if self._first.is_set() else self._first).set()


async def drain(streams: OpenStreams, stop: Signals, grace: float) -> None:
    """Let running steps be answered, for `grace` seconds at most or until another signal."""
    draining = asyncio.create_task(streams.drain())
    hurry = asyncio.create_task(stop.wait_for_second())
    await asyncio.wait({draining, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not draining.done():
        event(log, logging.WARNING, "steps were still running, and go unanswered")
        streams.abandon()
        draining.cancel()
