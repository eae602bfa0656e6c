"""What a stream may have unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.back_pressure.backlog import Backlog
from tests.support.waiting import PATIENCE

STEPS, BYTES = 3, 100
SHARED = 1_000_000


def run(scenario: Callable[[Backlog], Awaitable[None]]) -> None:
    async def main() -> None:
        # so that one that should not wait fails rather than hangs
        share = AnswerMemory(SHARED, 0).share()
        await asyncio.wait_for(scenario(Backlog(STEPS, BYTES, share)), PATIENCE)

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
        await backlog.remove()
        await waiting
        await waits(backlog, 0)

    run(scenario)


def test_bytes_up_to_the_number_fit_and_one_more_waits_for_enough_answers() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(50)
        await backlog.add(50)
        waiting = await waits(backlog, 50)
        await backlog.remove()
        await waiting
        await waits(backlog, 1)

    run(scenario)


def test_one_step_fits_however_large() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(1000 * BYTES)
        waiting = await waits(backlog, 0)
        await backlog.remove()
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


def test_what_several_streams_have_unanswered_comes_out_of_one_memory() -> None:
    async def main() -> None:
        memory = AnswerMemory(SHARED, 0)
        one, other = (Backlog(STEPS, SHARED, memory.share()) for _ in range(2))
        await one.add(SHARED // 2)
        await one.add(SHARED // 4)
        waiting = await waits(other, SHARED // 2)
        await one.remove()
        await waiting
        assert memory.shared_used == SHARED // 4 + SHARED // 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_stream_that_ends_gives_back_all_that_it_had() -> None:
    async def main() -> None:
        memory = AnswerMemory(SHARED, 0)
        one, other = (Backlog(STEPS, SHARED, memory.share()) for _ in range(2))
        await one.add(SHARED // 2)
        await one.add(SHARED // 4)
        waiting = await waits(other, SHARED // 2)
        assert other.waits and not one.waits
        one.clear()
        await waiting
        assert memory.shared_used == SHARED // 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
