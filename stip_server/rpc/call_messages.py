"""Reads a gRPC call's requests and writes its responses, one by one.

Not through the iterators that gRPC would take and give: their frames keep each message until the
next one comes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs
_Gone: type[Exception] = grpc.aio.InternalError


async def read(context: Any) -> Any:
    """The next request of a call. Raises EOFError where the client has closed its side."""
    request = await context.read()
    if request is _EOF:
        raise EOFError
    return request


async def write(context: Any, response: Any) -> None:
    """Send a response; returns when gRPC has room for the next one.

    Raises CancelledError where the client has gone, as gRPC itself does at other times: the error
    of its own would be logged with a traceback.
    """
    try:
        await context.write(response)
    except _Gone:
        raise asyncio.CancelledError from None
