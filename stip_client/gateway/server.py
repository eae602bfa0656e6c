"""The gateway as a process: its socket, its event loop, signals and an orderly end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from stip_client.http.http_server import HttpServer, config

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
    settings = config(
        app,
        grace_seconds=GRACE_SECONDS,
        has_lifespan=False,
        # longer than applications keep idle connections, so that none is closed under a request
        keep_alive_seconds=300,
    )
    server = _Server(settings, on_listening, on_ending)
    await server.serve([listener])
    await server.cut_off()
    return server.received


class _Server(HttpServer):
    """Says when it listens and when it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_listening: Callable[[], None],
        on_ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_ending = on_ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)

    async def cut_off(self) -> None:
        """End the requests that are still under way, and let them leave their sessions."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
