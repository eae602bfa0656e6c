"""The unanswered steps that one stream may have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stip_server.sessions.back_pressure.answer_memory import AnswerMemory, UnreadAnswers
from stip_server.sessions.back_pressure.backlog import Backlog
from tests.support.waiting import PATIENCE

STEPS, BYTES = 3, 100
SHARED = 1_000_000


def run(scenario: Callable[[Backlog], Awaitable[None]]) -> None:
    async def main() -> None:
        # a step that waits by mistake fails the test instead of hanging
        memory = AnswerMemory(SHARED, 0)
        await asyncio.wait_for(scenario(Backlog(STEPS, BYTES, memory, UnreadAnswers())), PATIENCE)

    asyncio.run(main())


def answer_oldest(backlog: Backlog) -> None:
    backlog.sending()
    backlog.sent()


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
        answer_oldest(backlog)
        await waiting
        await waits(backlog, 0)

    run(scenario)


def test_bytes_up_to_the_number_fit_and_one_more_waits_for_enough_answers() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(50)
        await backlog.add(50)
        waiting = await waits(backlog, 50)
        answer_oldest(backlog)
        await waiting
        await waits(backlog, 1)

    run(scenario)


def test_one_step_fits_however_large() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(1000 * BYTES)
        waiting = await waits(backlog, 0)
        answer_oldest(backlog)
        await waiting

    run(scenario)


def test_a_step_whose_stream_ends_while_it_waits_takes_no_memory() -> None:
    async def scenario(backlog: Backlog) -> None:
        await backlog.add(60)
        waiting = await waits(backlog, 50)
        waiting.cancel()
        await asyncio.wait({waiting})
        await backlog.add(40)

    run(scenario)


def two_streams() -> tuple[AnswerMemory, Backlog, Backlog]:
    memory = AnswerMemory(SHARED, 0)
    one, other = (Backlog(STEPS, SHARED, memory, UnreadAnswers()) for _ in range(2))
    return memory, one, other


def test_the_answers_of_several_streams_come_out_of_one_memory() -> None:
    async def main() -> None:
        memory, one, other = two_streams()
        await one.add(SHARED // 2)
        await one.add(SHARED // 4)
        waiting = await waits(other, SHARED // 2)
        answer_oldest(one)
        await waiting
        assert memory.shared_used_bytes == SHARED // 4 + SHARED // 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_stream_that_ends_frees_all_its_memory() -> None:
    async def main() -> None:
        memory, one, other = two_streams()
        await one.add(SHARED // 2)
        await one.add(SHARED // 4)
        waiting = await waits(other, SHARED // 2)
        assert other.waits_for_others and not one.waits_for_others
        one.clear()
        await waiting
        assert memory.shared_used_bytes == SHARED // 2

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_stream_whose_own_client_does_not_read_does_not_wait_for_others() -> None:
    async def main() -> None:
        _, one, other = two_streams()
        await one.add(SHARED)
        await other.add(0)
        waiting = await waits(other, 1)
        assert other.waits_for_others
        other.sending()
        assert not other.waits_for_others
        other.sent()
        assert other.waits_for_others
        waiting.cancel()

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
