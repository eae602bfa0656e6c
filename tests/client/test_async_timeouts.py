"""Time-outs of the asynchronous client next to cancellations that have another cause."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from stip_client import ConnectionLostError
from stip_client.transport.asynchronous import AsyncStream
from stip_client.transport.endpoint import Endpoint


def silent_stream(reading: asyncio.Event) -> AsyncStream:
    """A stream of a server that never answers; `reading` is set when something waits for it."""

    async def read() -> Any:
        reading.set()
        await asyncio.Event().wait()

    call = SimpleNamespace(read=read, add_done_callback=lambda _: None)
    return AsyncStream(SimpleNamespace(Infer=lambda **_: call), Endpoint("localhost:1"))  # type: ignore[arg-type]


def test_a_server_that_never_answers_is_a_lost_connection() -> None:
    async def run() -> None:
        await silent_stream(asyncio.Event()).receive(0.01)

    with pytest.raises(ConnectionLostError, match="no answer from localhost:1 within"):
        asyncio.run(run())


def test_a_cancelled_receive_is_not_a_time_out() -> None:
    async def run() -> None:
        reading = asyncio.Event()
        task = asyncio.create_task(silent_stream(reading).receive(600))
        await reading.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_a_cancellation_that_was_handled_before_does_not_hide_a_time_out() -> None:
    async def receive_after_a_cancellation(waiting: asyncio.Event) -> None:
        with suppress(asyncio.CancelledError):
            waiting.set()
            await asyncio.Event().wait()
        with pytest.raises(ConnectionLostError):
            await silent_stream(asyncio.Event()).receive(0.01)

    async def run() -> None:
        waiting = asyncio.Event()
        task = asyncio.create_task(receive_after_a_cancellation(waiting))
        await waiting.wait()
        task.cancel()
        await task

    asyncio.run(run())
