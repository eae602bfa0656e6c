"""One log line per request: method, path, status, milliseconds. Never a prompt or a reply.

A thread writes the lines, so a log that nobody reads does not block the gateway.
"""

from __future__ import annotations

import queue
import traceback
from contextlib import suppress
from threading import Thread
from time import perf_counter
from typing import TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_WAITING_LINES = 1000
MAX_PATH = 100
CLOSE_SECONDS = 1.0
# nginx logs this status when the client left before the answer began
CLIENT_GONE = 499


class LogWriter:
    """Writes lines to a file on a thread of its own. Drops lines while its queue is full."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_WAITING_LINES)
        self._thread = Thread(target=self._write, name="stip-gateway-log", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(text)

    def close(self) -> None:
        """Write the queued lines, within CLOSE_SECONDS."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(CLOSE_SECONDS)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                print(line, file=self._file, flush=True)
            except OSError:
                return  # the reader has gone


class AccessLog:
    """The outermost ASGI middleware."""

    def __init__(self, app: ASGIApp, log: LogWriter) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        status = CLIENT_GONE

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            status = 500
            # the message of an unforeseen error might quote the request
            self._log.line(f"internal error: {type(error).__name__}, {_where(error)}")
            raise
        finally:
            milliseconds = (perf_counter() - started) * 1e3
            path = _shown(scope["path"])
            self._log.line(f"{scope['method']} {path} {status} {milliseconds:.0f} ms")


def _shown(path: str) -> str:
    text = "".join(each if each.isprintable() else "?" for each in path[:MAX_PATH])
    return text if len(path) <= MAX_PATH else f"{text}..."


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
