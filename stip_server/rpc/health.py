"""The gRPC health service (grpc.health.v1). On the event loop's thread.

Ours, because grpcio-health-checking holds a lock while it writes: one stuck watcher blocks all.
It also keeps every watcher's request, which can be a megabyte large.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse

from stip_server.rpc.call_messages import read, write

NAME: str = health.SERVICE_NAME
# Watches at once, and the seconds until each must send its request.
MAX_WATCHES = 1000
REQUEST_TIMEOUT = 10.0


class Health:
    """The health of the services of `names`, which all have the same status. "" is the server."""

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)
        self.serving = False
        # one event for each watch
        self._changes: set[asyncio.Event] = set()

    def set(self, *, serving: bool) -> None:
        """Change the status and notify all watches. Never blocks."""
        self.serving = serving
        for changed in self._changes:
            changed.set()

    def add_to(self, server: Any) -> None:
        """Register the methods with a gRPC server."""
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(self.check),
            "List": grpc.unary_unary_rpc_method_handler(self.list),
            # A stream of requests on purpose: gRPC would keep a single request until the end.
            "Watch": grpc.stream_stream_rpc_method_handler(self.watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))

    async def check(self, request: bytes, context: Any) -> bytes:
        """The status of one service."""
        name = await _service(request, context)
        if name not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return self._response(name)

    async def list(self, request: bytes, context: Any) -> bytes:
        """The status of every service."""
        del request, context
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in self._names}
        response: bytes = HealthListResponse(statuses=statuses).SerializeToString()
        return response

    async def watch(self, requests: Any, context: Any) -> None:
        """Send the status of one service now and after each change, until the client leaves."""
        del requests
        if len(self._changes) >= MAX_WATCHES:
            # a call that ends before its request is read may reach the client as cancelled
            await self._watched(context)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches")
        changed = asyncio.Event()
        self._changes.add(changed)
        try:
            name = await self._watched(context)
            sent = None
            while True:
                changed.clear()
                if (status := self._status(name)) != sent:
                    await write(context, self._response(name))
                    sent = status
                await changed.wait()
        finally:
            self._changes.discard(changed)

    async def _watched(self, context: Any) -> str | None:
        """The name of the service to watch, or None for an unknown service."""
        try:
            request = await asyncio.wait_for(read(context), REQUEST_TIMEOUT)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no request came")
        except EOFError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no request")
        name = await _service(request, context)
        return name if name in self._names else None

    def _status(self, name: str | None) -> int:
        if name not in self._names:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        known = HealthCheckResponse.SERVING if self.serving else HealthCheckResponse.NOT_SERVING
        return int(known)

    def _response(self, name: str | None) -> bytes:
        response: bytes = HealthCheckResponse(status=self._status(name)).SerializeToString()
        return response


async def _service(request: bytes, context: Any) -> str:
    try:
        name: str = HealthCheckRequest.FromString(request).service
    except DecodeError:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "the message is not a HealthCheckRequest"
        )
    return name
