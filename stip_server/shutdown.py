"""Signals that stop the server, and the wait for running steps."""

from __future__ import annotations

import asyncio
import logging
import signal

from stip_server.observe.logs import event
from stip_server.rpc.open_streams import OpenStreams

log = logging.getLogger(__name__)


class Signals:
    """Counts SIGTERM and SIGINT from its creation on. Use it on the event loop."""

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._arrived)

    def is_set(self) -> bool:
        """Whether a signal has arrived."""
        return self._first.is_set()

    async def wait(self) -> None:
        """Wait for the first signal."""
        await self._first.wait()

    async def wait_for_second(self) -> None:
        """Wait for the second signal."""
        await self._second.wait()

    def _arrived(self) -> None:
        (self._second if self._first.is_set() else self._first).set()


async def drain(streams: OpenStreams, stop: Signals, grace: float) -> None:
    """Wait for running steps, at most `grace` seconds or until the second signal."""
    draining = asyncio.create_task(streams.drain())
    second = asyncio.create_task(stop.wait_for_second())
    await asyncio.wait({draining, second}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not draining.done():
        event(log, logging.WARNING, "steps were still running; they get no answer")
        streams.abandon()
        draining.cancel()
