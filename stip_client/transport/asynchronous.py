"""The transport of the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar, cast

import grpc

from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
)
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.errors import BROKEN_WRITE, ClientError, ConnectionLostError
from stip_client.transport.endpoint import Endpoint
from stip_client.transport.interface import run

T = TypeVar("T")

# Seconds that the status of an ended call may take to arrive; it is on this machine already.
STATUS_TIMEOUT = 1.0


class AsyncTransport:
    """One channel of grpc.aio for each server."""

    def __init__(self) -> None:
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}

    def open_stream(self, endpoint: Endpoint) -> AsyncStream:
        return AsyncStream(self._stub(endpoint), endpoint)

    async def model_info(self, endpoint: Endpoint) -> GetModelInfoResponse:
        try:
            response = await self._stub(endpoint).GetModelInfo(
                GetModelInfoRequest(),
                timeout=endpoint.connect_timeout,
                metadata=endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise endpoint.error(error) from error
        return cast(GetModelInfoResponse, response)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def compute(self, function: Callable[[], object]) -> None:
        await asyncio.to_thread(function)  # other sessions go on meanwhile

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    def _stub(self, endpoint: Endpoint) -> InferenceServiceStub:
        if endpoint not in self._channels:
            self._channels[endpoint] = endpoint.channel(grpc.aio)
        return InferenceServiceStub(self._channels[endpoint])  # type: ignore[no-untyped-call]


class AsyncStream:
    """One Infer call."""

    def __init__(self, stub: InferenceServiceStub, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._call: Any = stub.Infer(metadata=endpoint.metadata)
        self._status: grpc.aio.AioRpcError | None = None
        self._call.add_done_callback(self._keep_status)

    async def send(self, request: InferRequest, timeout: float) -> None:
        """Returns when gRPC has room for the next request."""
        try:
            await self._within(timeout, self._call.write(request))
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._ended() from error

    async def receive(self, timeout: float) -> InferResponse:
        try:
            response = await self._within(timeout, self._call.read())
        except grpc.RpcError as error:
            raise await self._ended() from error
        if response is grpc.aio.EOF:  # type: ignore[attr-defined]  # absent from the stubs
            raise await self._ended()
        return cast(InferResponse, response)

    def cancel(self) -> None:
        self._call.cancel()

    async def _within(self, timeout: float, operation: Awaitable[T]) -> T:
        """The result of a read or a write. Raises ConnectionLostError after a time-out."""
        try:
            async with asyncio.timeout(timeout):
                return await operation
        except TimeoutError as error:
            raise self._endpoint.timed_out(timeout) from error

    async def _ended(self) -> ClientError:
        """Why the stream has ended."""
        deadline = monotonic() + STATUS_TIMEOUT
        while _is_made_up(self._status) and monotonic() < deadline:
            await asyncio.sleep(0.001)
            self._keep_status(self._call)
        if self._status is None or self._status.code() is grpc.StatusCode.OK:
            return ConnectionLostError(f"{self._endpoint.target} ended the stream")
        return self._endpoint.error(self._status)

    def _keep_status(self, call: Any) -> None:
        """Keep a call's status, which grpc.aio can forget.

        A write that fails because the call has ended sets its own status, before the server's has
        arrived or over it. A refusal of the whole call would then look like a lost connection.
        """
        if call.done():
            self._status = grpc.aio.AioRpcError(
                code=run(call.code()),
                initial_metadata=grpc.aio.Metadata(),
                trailing_metadata=run(call.trailing_metadata()),
                details=run(call.details()),
                debug_error_string="",
            )


def _is_made_up(status: grpc.aio.AioRpcError | None) -> bool:
    return status is None or (status.details() or "").startswith(BROKEN_WRITE)
