"""Signals that stop the server, and the wait for running steps."""

from __future__ import annotations

import asyncio
import logging
import signal

from stip_server.observe.logs import event
from stip_server.rpc.open_streams import OpenStreams

log = logging.getLogger(__name__)


class Signals:
    """Sets an event at the first SIGTERM or SIGINT, another at the second. For the event loop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._arrived)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def drain(streams: OpenStreams, stop: Signals, grace: float) -> None:
    """Wait for running steps, at most `grace` seconds or until the second signal."""
    draining = asyncio.create_task(streams.drain())
    second = asyncio.create_task(stop.second.wait())
    await asyncio.wait({draining, second}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if not draining.done():
        event(log, logging.WARNING, "steps were still running; they get no answer")
        streams.abandon()
        draining.cancel()
