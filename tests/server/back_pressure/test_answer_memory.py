"""The memory that the answers of all sessions share, and the part that each session owns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from stip_server.sessions.back_pressure.answer_memory import AnswerMemory, UnreadAnswers
from tests.support.waiting import PATIENCE

SHARED, OWN = 120, 10


def run(scenario: Callable[[AnswerMemory], Awaitable[None]]) -> None:
    async def main() -> None:
        # a step that waits by mistake fails the test instead of hanging
        await asyncio.wait_for(scenario(AnswerMemory(SHARED, OWN)), PATIENCE)

    asyncio.run(main())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def reserved(memory: AnswerMemory, size: int) -> UnreadAnswers:
    """A new session with an unread answer, for which there is memory now."""
    unread = UnreadAnswers()
    await memory.reserve(unread, size)
    return unread


async def waits(memory: AnswerMemory, unread: UnreadAnswers, size: int) -> asyncio.Task[None]:
    """The task of an answer for which there is no memory now."""
    before = memory.waiting
    task = asyncio.create_task(memory.reserve(unread, size))
    await turns()
    assert not task.done()
    assert memory.waiting == before + 1
    return task


def test_the_largest_answer_fits_and_another_waits_until_it_was_read() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await reserved(memory, SHARED)
        waiting = await waits(memory, UnreadAnswers(), OWN + 1)
        memory.release(largest, SHARED)
        await waiting
        assert (memory.shared_used_bytes, memory.used_bytes) == (OWN + 1, OWN + 1)
        assert memory.waiting == 0

    run(scenario)


def test_no_session_waits_for_others_with_its_own_memory() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await reserved(memory, SHARED)
        await waits(memory, UnreadAnswers(), OWN + 1)
        for _ in range(3):
            unread = UnreadAnswers()
            await memory.reserve(unread, OWN // 2)
            await memory.reserve(unread, OWN // 2)
            await waits(memory, unread, 1)
        assert (memory.shared_used_bytes, memory.used_bytes) == (SHARED, SHARED + 3 * OWN)

    run(scenario)


def test_a_session_whose_large_answer_is_unread_does_not_wait_with_a_row() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        unread = await reserved(memory, SHARED)
        await memory.reserve(unread, OWN)
        memory.release(unread, SHARED)
        assert (memory.shared_used_bytes, memory.used_bytes) == (0, OWN)

    run(scenario)


def test_an_answer_that_waits_gets_its_sessions_own_memory_when_that_is_free_first() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await reserved(memory, SHARED)
        await waits(memory, UnreadAnswers(), OWN + 1)  # in front of it
        unread = await reserved(memory, OWN)
        waiting = await waits(memory, unread, OWN)
        memory.release(unread, OWN)
        await waiting
        assert (memory.shared_used_bytes, memory.used_bytes) == (SHARED, SHARED + OWN)

    run(scenario)


def test_shared_memory_is_given_in_order_even_if_a_later_answer_would_fit() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        one, other = [await reserved(memory, SHARED // 2) for _ in range(2)]
        unread = UnreadAnswers()
        first = await waits(memory, unread, SHARED)
        second = await waits(memory, UnreadAnswers(), SHARED // 4)
        memory.release(one, SHARED // 2)
        await turns()
        assert not first.done() and not second.done()
        memory.release(other, SHARED // 2)
        await first
        memory.release(unread, SHARED)
        await second

    run(scenario)


def test_an_empty_answer_never_waits() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        unread = await reserved(memory, SHARED)
        await memory.reserve(unread, OWN)
        await waits(memory, unread, 1)
        await memory.reserve(unread, 0)

    run(scenario)


def test_a_step_that_gives_up_waiting_takes_nothing_and_delays_nobody() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        await reserved(memory, SHARED // 2)
        first = await waits(memory, UnreadAnswers(), SHARED)
        second = await waits(memory, UnreadAnswers(), SHARED // 2)
        first.cancel()
        await second
        assert memory.shared_used_bytes == SHARED
        assert memory.waiting == 0

    run(scenario)


def test_a_step_that_gives_up_at_the_moment_of_its_turn_takes_nothing() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await reserved(memory, SHARED)
        waiting = await waits(memory, UnreadAnswers(), SHARED)
        memory.release(largest, SHARED)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert memory.used_bytes == 0

    run(scenario)


def test_a_step_that_gave_up_before_its_turn_is_passed_over() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        largest = await reserved(memory, SHARED)
        first = await waits(memory, UnreadAnswers(), SHARED)
        second = await waits(memory, UnreadAnswers(), SHARED)
        first.cancel()
        memory.release(largest, SHARED)  # the first has not heard yet that it is cancelled
        await second
        await asyncio.wait({first})
        assert memory.shared_used_bytes == SHARED

    run(scenario)


def test_what_an_ended_session_has_left_unread_counts_as_shared() -> None:
    async def scenario(memory: AnswerMemory) -> None:
        unread = await reserved(memory, OWN)
        await reserved(memory, SHARED)
        assert not memory.overdrawn
        memory.end_session(unread)
        memory.end_session(unread)
        assert memory.overdrawn
        assert (memory.shared_used_bytes, memory.used_bytes) == (SHARED + OWN, SHARED + OWN)
        memory.release(unread, OWN)
        assert not memory.overdrawn
        # an ended session owns no memory
        await waits(memory, unread, 1)

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_used_memory_is_what_is_reserved(seed: int) -> None:
    async def scenario(memory: AnswerMemory) -> None:
        draw = Random(seed)
        sessions = [UnreadAnswers() for _ in range(4)]
        everybody = list(sessions)
        unsent: list[tuple[UnreadAnswers, int]] = []
        waiting: dict[asyncio.Task[None], tuple[UnreadAnswers, int]] = {}

        def collect() -> None:
            for task in [each for each in waiting if each.done()]:
                answer = waiting.pop(task)
                if not task.cancelled():
                    unsent.append(answer)

        for _ in range(300):
            act = draw.choice(("reserve", "reserve", "release", "give up", "end", "turn"))
            if act == "reserve":
                size = draw.choice((0, 1, OWN, OWN + 1, SHARED // 2, SHARED))
                answer = draw.choice(sessions), size
                waiting[asyncio.create_task(memory.reserve(*answer))] = answer
            elif act == "release" and unsent:
                memory.release(*unsent.pop(draw.randrange(len(unsent))))
            elif act == "give up" and waiting:
                draw.choice(list(waiting)).cancel()
            elif act == "end" and draw.random() < 0.2:
                ended = draw.randrange(len(sessions))
                memory.end_session(sessions[ended])
                sessions[ended] = UnreadAnswers()
                everybody.append(sessions[ended])
            else:
                await turns()
            collect()
            if not memory.overdrawn:
                assert memory.shared_used_bytes <= SHARED
            own = sum(min(OWN, each.small_bytes) for each in everybody if not each.session_ended)
            assert memory.used_bytes == sum(size for _, size in unsent)
            assert memory.shared_used_bytes == memory.used_bytes - own
        while waiting or unsent:
            while unsent:
                memory.release(*unsent.pop())
            await turns()
            collect()
        assert (memory.shared_used_bytes, memory.used_bytes, memory.waiting) == (0, 0, 0)

    run(scenario)
