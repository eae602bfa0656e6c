"""The memory that the answers of all streams share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stip_server.answers import SMALL, AnswerMemory, largest_answer

SIZE = 16 * SMALL
LARGEST = largest_answer(SIZE)
LARGE = LARGEST // 3


def run(scenario: Callable[[AnswerMemory], Awaitable[None]]) -> None:
    async def main() -> None:
        memory = AnswerMemory(SIZE)
        # so that one that should not wait fails rather than hangs
        await asyncio.wait_for(scenario(memory), 30)

    asyncio.run(main())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def waits(memory: AnswerMemory, size: int) -> asyncio.Task[None]:
    """The task of an answer for which there is no room now."""
    before = memory.waiting
    task = asyncio.create_task(memory.take(size))
    await turns()
    assert not task.done()
    assert memory.waiting == before + 1
    return task


def test_the_largest_answer_fits_and_another_waits_until_it_was_read() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(LARGEST)
        waiting = await waits(memory, LARGE)
        memory.give_back(LARGEST)
        await waiting
        assert memory.used == LARGE
        assert memory.waiting == 0

    run(scenario)


def test_small_answers_find_room_that_large_ones_leave() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(LARGEST)
        large = await waits(memory, LARGE)
        for _ in range((SIZE - LARGEST) // SMALL):
            await memory.take(SMALL)
        small = await waits(memory, SMALL)
        memory.give_back(SMALL)
        await small
        assert not large.done()
        assert memory.used == SIZE

    run(scenario)


def test_what_waits_comes_in_its_order_even_where_something_behind_would_fit() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(2 * LARGE)
        first = await waits(memory, 2 * LARGE)
        second = await waits(memory, LARGE)
        memory.give_back(LARGE)
        await first
        await turns()
        assert not second.done()
        memory.give_back(LARGE)
        await second

    run(scenario)


def test_nothing_waits_for_what_takes_nothing() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        for _ in range(SIZE // SMALL):
            await memory.take(SMALL)
        await waits(memory, 1)
        await memory.take(0)

    run(scenario)


def test_one_that_gives_up_waiting_takes_nothing_and_holds_up_nobody() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(LARGE)
        first = await waits(memory, LARGEST)
        second = await waits(memory, LARGE)
        first.cancel()
        await second
        assert memory.used == 2 * LARGE
        assert memory.waiting == 0

    run(scenario)


def test_one_that_gives_up_in_the_moment_in_which_there_is_room_gives_it_back() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(LARGEST)
        waiting = await waits(memory, LARGE)
        memory.give_back(LARGEST)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert memory.used == 0

    run(scenario)


def test_one_that_gives_up_before_there_is_room_is_passed_over() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(LARGEST)
        first = await waits(memory, LARGE)
        second = await waits(memory, LARGE)
        first.cancel()
        memory.give_back(LARGEST)  # the first has not heard yet that it is cancelled
        await second
        await asyncio.wait({first})
        assert memory.used == LARGE

    run(scenario)
