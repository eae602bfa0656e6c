"""The transport of the synchronous client: its coroutines block and never suspend."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from time import sleep
from typing import Any, cast

import grpc

from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
)
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.errors import ConnectionLostError
from stip_client.transport.endpoint import Endpoint


class BlockingTransport:
    """One channel of grpc for each server."""

    def __init__(self) -> None:
        self._channels: dict[Endpoint, grpc.Channel] = {}

    def open_stream(self, endpoint: Endpoint) -> BlockingStream:
        return BlockingStream(self._stub(endpoint), endpoint)

    async def model_info(self, endpoint: Endpoint) -> GetModelInfoResponse:
        try:
            response = self._stub(endpoint).GetModelInfo(
                GetModelInfoRequest(),
                timeout=endpoint.connect_timeout,
                metadata=endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise endpoint.error(error) from error
        return cast(GetModelInfoResponse, response)

    async def sleep(self, seconds: float) -> None:
        sleep(seconds)

    async def compute(self, function: Callable[[], object]) -> None:
        function()

    async def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def _stub(self, endpoint: Endpoint) -> InferenceServiceStub:
        if endpoint not in self._channels:
            self._channels[endpoint] = endpoint.channel(grpc)
        return InferenceServiceStub(self._channels[endpoint])  # type: ignore[no-untyped-call]


class BlockingStream:
    """One Infer call, read by its own thread.

    The caller's thread waits on a queue and never inside gRPC. A Ctrl-C that is raised inside
    gRPC's Python code leaves a lock held there, and the next call would wait for ever.
    """

    def __init__(self, stub: InferenceServiceStub, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._requests: SimpleQueue[InferRequest | None] = SimpleQueue()
        # responses, then the error that ended the stream, or None for OK
        self._responses: SimpleQueue[InferResponse | grpc.RpcError | None] = SimpleQueue()
        self._call: Any = stub.Infer(iter(self._requests.get, None), metadata=endpoint.metadata)
        Thread(target=self._read, name="stip-stream", daemon=True).start()

    async def send(self, request: InferRequest, timeout: float) -> None:
        del timeout  # the queue takes it at once
        self._requests.put(request)

    async def receive(self, timeout: float) -> InferResponse:
        try:
            response = self._responses.get(timeout=timeout)
        except Empty:
            raise self._endpoint.timed_out(timeout) from None
        if response is None:
            raise ConnectionLostError(f"{self._endpoint.target} ended the stream")
        if isinstance(response, grpc.RpcError):
            raise self._endpoint.error(response) from response
        return response

    def cancel(self) -> None:
        self._call.cancel()
        self._requests.put(None)

    def _read(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
        except grpc.RpcError as error:
            self._responses.put(error)
        else:
            self._responses.put(None)
