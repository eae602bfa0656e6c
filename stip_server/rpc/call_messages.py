"""Reads a gRPC call's requests and writes its responses, one by one.

gRPC's own iterators are not used: their frames keep each message until the next one comes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs
_ClientGone: type[Exception] = grpc.aio.InternalError


async def read(context: Any) -> Any:
    """The next request of a call. Raises EOFError if the client has closed its side."""
    request = await context.read()
    if request is _EOF:
        raise EOFError
    return request


async def write(context: Any, response: Any) -> None:
    """Send a response; return when gRPC has room for the next one.

    Raises CancelledError if the client has gone, as gRPC does at other times. gRPC would log its
    own error with a traceback.
    """
    try:
        await context.write(response)
    except _ClientGone:
        raise asyncio.CancelledError from None
