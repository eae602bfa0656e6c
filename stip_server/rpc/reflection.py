"""Server reflection, for as many as ask at once within reason. On the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

NAME: str = reflection.SERVICE_NAME
# Streams at once, and seconds in which each must ask something.
MAX_STREAMS = 64
REQUEST_TIMEOUT = 60.0


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[name-defined,misc]
    """grpcio-reflection's servicer, whose streams are limited in number and do not last."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)
        self._streams = 0

    def add_to(self, server: Any) -> None:
        """Register the method with a gRPC server."""
        add_ServerReflectionServicer_to_server(self, server)

    async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answer what is asked about the services."""
        if self._streams >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams")
        self._streams += 1
        try:
            async for response in super().ServerReflectionInfo(_hasty(request_iterator), context):
                yield response
        finally:
            self._streams -= 1


async def _hasty(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests, until none comes for too long."""
    while True:
        try:
            request = await asyncio.wait_for(anext(requests), REQUEST_TIMEOUT)
        except (TimeoutError, StopAsyncIteration):
            return
        yield request
