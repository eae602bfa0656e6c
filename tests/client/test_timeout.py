"""Time-outs of the asynchronous client, beside cancellations that are somebody else's."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from stip_client.transport.timeout import Timeout


async def wait(seconds: float) -> None:
    async with Timeout(seconds):
        await asyncio.sleep(60)


def test_what_takes_too_long_is_a_time_out() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(wait(0.01))


def test_a_cancellation_is_none() -> None:
    async def run() -> None:
        task = asyncio.create_task(wait(30))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_a_cancellation_that_was_dealt_with_before_makes_none_of_a_time_out() -> None:
    async def dealing() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        with pytest.raises(TimeoutError):
            await wait(0.01)

    async def run() -> None:
        task = asyncio.create_task(dealing())
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(run())
