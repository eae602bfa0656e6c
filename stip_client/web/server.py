"""The page's server: the application around Gradio's, and its public tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import networking
from starlette.types import ASGIApp

from stip_client.errors import ClientError
from stip_client.http import http_server
from stip_client.http.listening_socket import is_local
from stip_client.web.browser_protection import BrowserProtection
from stip_client.web.page import Page
from stip_client.web.page_model import ModelLoader
from stip_client.web.theme import style, theme

# Seconds that the streams of open tabs have to end.
GRACE_SECONDS = 1
# Bytes. Nothing is uploaded to this page.
MAX_FILE_SIZE = 1
_NO_DOCUMENTATION: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}


def share(listener: socket.socket) -> str:
    """Open Gradio's tunnel to the page and return its address. Raises ClientError."""
    host, port = listener.getsockname()[:2]
    here = host if is_local(listener) else "127.0.0.1"
    try:
        return networking.setup_tunnel(here, port, secrets.token_urlsafe(32), None, None)
    except (RuntimeError, OSError, ValueError) as error:
        raise ClientError(
            f"the page cannot be shared: {str(error).splitlines()[0]}",
            hint="is the internet reachable? Without --share the page stays on this machine",
        ) from error


def make_app(loader: ModelLoader, folder: str, *, local: bool) -> ASGIApp:
    """Gradio's application behind BrowserProtection."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await loader.close()

    app = FastAPI(lifespan=lifespan, **_NO_DOCUMENTATION)
    gr.mount_gradio_app(
        app,
        Page(loader, folder).blocks,
        path="/",
        app_kwargs=_NO_DOCUMENTATION,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme(),
        head=style(),
    )
    return BrowserProtection(app, local=local)


def serve(app: ASGIApp, listener: socket.socket) -> signal.Signals:
    """Serve until SIGINT or SIGTERM and return that signal."""
    return asyncio.run(
        http_server.serve(app, listener, grace_seconds=GRACE_SECONDS, has_lifespan=True)
    )
