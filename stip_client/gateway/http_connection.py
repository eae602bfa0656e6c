"""The HTTP side of one request: reads its body, notices that the client left, sends events.

sse-starlette does not fit: it cancels its task group again at each await, so a session whose stream
is left would not be closed (measured), and it cuts streams off when the server ends.
"""

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
# Read and discard up to this much of a body that is too large, so that the client sees the refusal.
MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
# A client that reads nothing for this long counts as gone.
STALLED_SECONDS = 60.0
CANCEL_AGAIN_SECONDS = 0.5

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # tells proxies such as nginx not to buffer events
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client closed the connection or stopped reading."""


async def read_body(receive: Receive) -> bytes:
    """A request's body. Raises ApiError if it is too large, and ClientGone."""
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
    """Run the work; when the client leaves, cancel it and raise ClientGone."""
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
    """Send one server-sent event for each chunk.

    An error before the first chunk is raised; a later error becomes the last event.
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
    # ASCII: some clients treat U+2028 and U+0085 as the end of a line
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _writer(send: Send) -> Callable[[bytes], Awaitable[None]]:
    """A function that sends a part of the body and raises ClientGone if it is not read in time."""
    loop = asyncio.get_running_loop()
    task = cast("asyncio.Task[None]", asyncio.current_task())
    stalled = False

    def give_up() -> None:
        nonlocal stalled
        stalled = True
        task.cancel()

    async def write(body: bytes) -> None:
        # wait_for would create a task for each token
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
