"""What the core asks of a transport, and how one core serves both clients.

The core is written as coroutines. The asynchronous client awaits them. The synchronous client has a
transport that blocks instead of suspending, so `run` completes a coroutine in one step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

from stip.v1.inference_pb2 import GetModelInfoResponse, InferRequest, InferResponse
from stip_client.transport.endpoint import Endpoint

T = TypeVar("T")


class Stream(Protocol):
    """One Infer call."""

    async def send(self, request: InferRequest, timeout: float) -> None:
        """Send a request. Raises ClientError if the stream has ended or does not take it in time.

        timeout: seconds, here and below.
        """

    async def receive(self, timeout: float) -> InferResponse:
        """The next response. Raises ClientError at the stream's end and after a time-out."""
        ...

    def cancel(self) -> None:
        """Give up the call."""


class Transport(Protocol):
    """The I/O of one client, with one channel for each server."""

    def open_stream(self, endpoint: Endpoint) -> Stream:
        """Start an Infer call; nothing is sent yet."""
        ...

    async def model_info(self, endpoint: Endpoint) -> GetModelInfoResponse:
        """A server's answer to GetModelInfo. Raises ClientError."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def compute(self, function: Callable[[], object]) -> None:
        """Call a function that computes for long."""

    async def close(self) -> None:
        """Close the channels."""


def run(awaitable: Awaitable[T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        awaitable.__await__().send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise RuntimeError("the coroutine suspended: its transport does not block")
