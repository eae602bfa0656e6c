"""What a stream may have unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stip_server.backlog import Backlog

STEPS, BYTES = 3, 100


def run(scenario: Callable[[Backlog], Awaitable[None]]) -> None:
    async def main() -> None:
        # so that one that should not wait fails rather than hangs
        await asyncio.wait_for(scenario(Backlog(STEPS, BYTES)), 30)

    asyncio.run(main())


async def waits(backlog: Backlog, size: int) -> asyncio.Task[None]:
    """The task of a step that does not fit now."""
    task = asyncio.create_task(backlog.add(size))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def test_steps_up_to_the_number_fit_and_one_more_waits_for_an_answer() -> None:
    async def scenario(backlog: Backlog) -> None:
        for _ in range(STEPS):
            await backlog.add(0)
        waiting = await waits(backlog, 0)
        await backlog.remove(0)
        await waiting
        await waits(backlog, 0)

    run(scenario)


def test_bytes_up_to_the_number_fit_and_one_more_waits_for_enough_answers() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(50)
        await backlog.add(50)
        waiting = await waits(backlog, 50)
        await backlog.remove(50)
        await waiting
        await waits(backlog, 1)

    run(scenario)


def test_one_step_fits_however_large() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(1000 * BYTES)
        waiting = await waits(backlog, 0)
        await backlog.remove(1000 * BYTES)
        await waiting

    run(scenario)


def test_a_step_whose_stream_ends_while_it_waits_takes_no_room() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(60)
        waiting = await waits(backlog, 50)
        waiting.cancel()
        await asyncio.wait({waiting})
        await backlog.add(40)

    run(scenario)
