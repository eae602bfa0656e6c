"""What the gateway's and the page's HTTP servers have in common. Needs uvicorn, of both extras."""

from __future__ import annotations

import logging
import signal
from types import FrameType

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """Leaves it to its caller how the process ends: `received` is the signal that ended it."""

    received = signal.SIGTERM

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # uvicorn's own raises the signal again at the end, and the process would die of it
        self.force_exit = self.should_exit  # a second one waits for nothing
        self.should_exit = True
        self.received = signal.Signals(sig)


def config(
    app: ASGIApp, *, grace_seconds: int, has_lifespan: bool, keep_alive_seconds: int = 5
) -> uvicorn.Config:
    """Settings: no WebSockets, and no line of a log that uvicorn would write itself."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on" if has_lifespan else "off",
        # what is logged is logged by the app; uvicorn's tracebacks could quote requests
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=grace_seconds,
    )
