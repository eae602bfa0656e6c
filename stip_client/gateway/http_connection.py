"""The HTTP side of one request: reading its body, noticing that the client has gone, events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

from starlette.types import Receive, Send

from stip_client.errors import ClientError
from stip_client.gateway.errors import ApiError, from_client_error

MAX_BODY_BYTES = 16 * 1024 * 1024
# Of a body that is too large so much is read and thrown away, so that the refusal can be read.
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
# A client that takes nothing for so long counts as gone.
STALLED_SECONDS = 60.0
CANCEL_AGAIN_SECONDS = 0.5

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # asks proxies such as nginx to pass events on at once
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def read_body(receive: Receive) -> bytes:
    """A request's body. Raises ApiError for one that is too large, ClientGone."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= MAX_DISCARDED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
    if size > MAX_BODY_BYTES:
        raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes", code="body_too_large")
    return b"".join(chunks)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end; cancel it when the client goes, which raises ClientGone."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        if working.cancelled():
            raise RuntimeError("the work was cancelled from inside")
        working.result()
    finally:
        leaving.cancel()
        # before Python 3.12 asyncio.wait_for can lose a cancellation
        while not working.done():
            working.cancel()
            await asyncio.wait((working,), timeout=CANCEL_AGAIN_SECONDS)
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_events(chunks: AsyncGenerator[dict[str, Any], None], send: Send) -> None:
    """Answer with server-sent events, a chunk each.

    An error before the first chunk is raised; a later one becomes the last event.
    """
    async with aclosing(chunks):
        first = await anext(chunks)
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        write = _writer(send)
        try:
            await write(_event(first))
            async for chunk in chunks:
                await write(_event(chunk))
        except ApiError as error:
            await write(_event(error.body()))
        except ClientError as error:
            await write(_event(from_client_error(error).body()))
        else:
            await write(DONE)
    await send({"type": "http.response.body"})


def _event(data: dict[str, Any]) -> bytes:
    # ASCII: some clients take U+2028 and U+0085 for the end of a line
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _writer(send: Send) -> Callable[[bytes], Awaitable[None]]:
    """Sends more of the body. Raises ClientGone where nobody takes it for long."""
    loop = asyncio.get_running_loop()
    task = cast("asyncio.Task[None]", asyncio.current_task())
    stalled = False

    def give_up() -> None:
        nonlocal stalled
        stalled = True
        task.cancel()

    async def write(body: bytes) -> None:
        # wait_for would make a task for each token
        timer = loop.call_later(STALLED_SECONDS, give_up)
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        except asyncio.CancelledError:
            if stalled:
                raise ClientGone from None
            raise
        finally:
            timer.cancel()

    return write
