"""The memory that the answers of all sessions share, and the part that each has for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from stip_server.sessions.back_pressure.answer_memory import AnswerMemory, Room, Share
from tests.support.waiting import PATIENCE

SHARED, OWN = 120, 10


def run(scenario: Callable[[AnswerMemory], Awaitable[None]]) -> None:
    async def main() -> None:
        # so that one that should not wait fails rather than hangs
        await asyncio.wait_for(scenario(AnswerMemory(SHARED, OWN)), PATIENCE)

    asyncio.run(main())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def waits(memory: AnswerMemory, share: Share, size: int) -> asyncio.Task[Room]:
    """The task of an answer for which there is no room now."""
    before = memory.waiting
    task = asyncio.create_task(memory.take(share, size))
    await turns()
    assert not task.done()
    assert memory.waiting == before + 1
    return task


def test_the_largest_answer_fits_and_another_waits_until_it_was_read() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await memory.take(memory.share(), SHARED)
        waiting = await waits(memory, memory.share(), OWN + 1)
        largest.give_back()
        await waiting
        assert (memory.shared_used, memory.own_used) == (OWN + 1, 0)
        assert memory.waiting == 0

    run(scenario)


def test_no_session_waits_for_others_with_what_is_its_own() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(memory.share(), SHARED)
        await waits(memory, memory.share(), OWN + 1)
        for _ in range(3):
            share = memory.share()
            await memory.take(share, OWN // 2)
            await memory.take(share, OWN // 2)
            await waits(memory, share, 1)
        assert (memory.shared_used, memory.own_used) == (SHARED, 3 * OWN)

    run(scenario)


def test_an_answer_that_waits_takes_its_own_room_when_that_comes_first() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(memory.share(), SHARED)
        await waits(memory, memory.share(), OWN + 1)  # in front of it
        share = memory.share()
        room = await memory.take(share, OWN)
        waiting = await waits(memory, share, OWN)
        room.give_back()
        await waiting
        assert (memory.shared_used, memory.own_used) == (SHARED, OWN)

    run(scenario)


def test_what_waits_comes_in_its_order_even_where_something_behind_would_fit() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        one, other = [await memory.take(memory.share(), SHARED // 2) for _ in range(2)]
        first = await waits(memory, memory.share(), SHARED)
        second = await waits(memory, memory.share(), SHARED // 4)
        one.give_back()
        await turns()
        assert not first.done() and not second.done()
        other.give_back()
        (await first).give_back()
        await second

    run(scenario)


def test_what_takes_nothing_never_waits() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        share = memory.share()
        await memory.take(share, SHARED)
        await memory.take(share, OWN)
        await waits(memory, share, 1)
        await memory.take(share, 0)

    run(scenario)


def test_one_that_gives_up_waiting_takes_nothing_and_holds_up_nobody() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await memory.take(memory.share(), SHARED // 2)
        first = await waits(memory, memory.share(), SHARED)
        second = await waits(memory, memory.share(), SHARED // 2)
        first.cancel()
        await second
        assert memory.shared_used == SHARED
        assert memory.waiting == 0

    run(scenario)


def test_one_that_gives_up_in_the_moment_in_which_there_is_room_gives_it_back() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await memory.take(memory.share(), SHARED)
        waiting = await waits(memory, memory.share(), SHARED)
        largest.give_back()
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert memory.shared_used == 0

    run(scenario)


def test_one_that_gives_up_before_there_is_room_is_passed_over() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await memory.take(memory.share(), SHARED)
        first = await waits(memory, memory.share(), SHARED)
        second = await waits(memory, memory.share(), SHARED)
        first.cancel()
        largest.give_back()  # the first has not heard yet that it is cancelled
        await second
        await asyncio.wait({first})
        assert memory.shared_used == SHARED

    run(scenario)


def test_what_an_ended_session_has_left_unread_counts_as_everybodys() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        share = memory.share()
        room = await memory.take(share, OWN)
        await memory.take(memory.share(), SHARED)
        assert not memory.overdrawn
        share.end()
        share.end()
        assert memory.overdrawn
        assert (memory.shared_used, memory.own_used) == (SHARED + OWN, 0)
        room.give_back()
        assert not memory.overdrawn
        # an ended session has nothing of its own
        await waits(memory, share, 1)

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_what_is_used_is_what_is_held(seed: int) -> None:
    async def scenario(memory: AnswerMemory) -> None:
        draw = Random(seed)
        shares = [memory.share() for _ in range(4)]
        held: list[Room] = []
        waiting: list[asyncio.Task[Room]] = []
        for _ in range(300):
            act = draw.choice(("take", "take", "give back", "give up", "end", "turn"))
            if act == "take":
                size = draw.choice((0, 1, OWN, OWN + 1, SHARED // 2, SHARED))
                waiting.append(asyncio.create_task(memory.take(draw.choice(shares), size)))
            elif act == "give back" and held:
                held.pop(draw.randrange(len(held))).give_back()
            elif act == "give up" and waiting:
                waiting[draw.randrange(len(waiting))].cancel()
            elif act == "end" and draw.random() < 0.2:
                ended = draw.randrange(len(shares))
                shares[ended].end()
                shares[ended] = memory.share()
            else:
                await turns()
            for task in [each for each in waiting if each.done()]:
                waiting.remove(task)
                if not task.cancelled():
                    held.append(task.result())
            if not memory.overdrawn:
                assert memory.shared_used <= SHARED
            assert memory.own_used <= OWN * len(shares)
        while waiting or held:
            for room in held:
                room.give_back()
            await turns()
            held = [task.result() for task in waiting if task.done() and not task.cancelled()]
            waiting = [task for task in waiting if not task.done()]
        assert (memory.shared_used, memory.own_used, memory.waiting) == (0, 0, 0)

    run(scenario)
