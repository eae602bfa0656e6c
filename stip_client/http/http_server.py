"""The HTTP server of the gateway and of the page. Needs uvicorn, which both extras install."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    grace_seconds: int,
    has_lifespan: bool,
    keep_alive_seconds: int = 5,
    on_listening: Callable[[], None] = lambda: None,
    on_ending: Callable[[], None] = lambda: None,
) -> signal.Signals:
    """Serve until SIGINT or SIGTERM and return that signal.

    Requests then have `grace_seconds` to end before they are cancelled.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on" if has_lifespan else "off",
        # the app writes the log; uvicorn's tracebacks could quote requests
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=grace_seconds,
    )
    server = _Server(config, on_listening, on_ending)
    await server.serve([listener])
    await server.cancel_requests()
    return server.received


class _Server(uvicorn.Server):
    """Reports when it listens and when it ends, and leaves it to the caller how to exit."""

    received = signal.SIGTERM

    def __init__(
        self,
        config: uvicorn.Config,
        on_listening: Callable[[], None],
        on_ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_ending = on_ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn's own method raises the signal again at the end, which would kill the process
        self.force_exit = self.should_exit  # a second signal waits for nothing
        self.should_exit = True
        self.received = signal.Signals(sig)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)

    async def cancel_requests(self) -> None:
        """Cancel the requests that still run, and let them close their sessions."""
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
