"""The gateway as a process: its socket, its event loop, signals and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

# Requests under way have so long to be answered once the gateway is told to end: replies end with
# their next token, and what still waits for its first one is cut off.
GRACE_SECONDS = 2


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    on_listening: Callable[[], None],
    on_ending: Callable[[], None],
) -> signal.Signals:
    """Serve until SIGINT or SIGTERM, which is returned."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        # what is logged is logged by the app; uvicorn's tracebacks could quote requests
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        # longer than applications keep idle connections, so that none is closed under a request
        timeout_keep_alive=300,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, on_listening, on_ending)
    await server.serve([listener])
    await server.cut_off()
    return server.received


class _Server(uvicorn.Server):
    """Says when it listens, and leaves it to its caller how the process ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_listening: Callable[[], None],
        on_ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_ending = on_ending
        self.received = signal.SIGTERM

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn's own raises the signal again at the end, and the process would die of it
        self.force_exit = self.should_exit  # a second one waits for nothing
        self.should_exit = True
        self.received = signal.Signals(sig)

    async def cut_off(self) -> None:
        """End the requests that are still under way, and let them leave their sessions."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
