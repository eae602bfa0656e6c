"""Server reflection, with limits on streams and their duration. On the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

NAME: str = reflection.SERVICE_NAME
# Streams at once, and the seconds until each must send its next request.
MAX_STREAMS = 64
REQUEST_TIMEOUT = 60.0


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[name-defined,misc]
    """grpcio-reflection's servicer, with a limited number of streams that end when idle."""

    def __init__(self, *names: str) -> None:
        super().__init__(names)
        self._streams = 0

    def add_to(self, server: Any) -> None:
        """Register the method with a gRPC server."""
        add_ServerReflectionServicer_to_server(self, server)

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Describe the services that the requests name."""
        if self._streams >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reflection streams")
        self._streams += 1
        try:
            async for response in super().ServerReflectionInfo(_until_idle(requests), context):
                yield response
        finally:
            self._streams -= 1


async def _until_idle(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield requests until none comes for REQUEST_TIMEOUT seconds."""
    while True:
        try:
            request = await asyncio.wait_for(anext(requests), REQUEST_TIMEOUT)
        except (TimeoutError, StopAsyncIteration):
            return
        yield request
