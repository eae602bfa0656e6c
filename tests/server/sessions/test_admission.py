"""Waiting for room, with real sessions, an injected clock and one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from stip.v1.errors_pb2 import ErrorReason
from stip_server.errors import ServiceError, reason_name
from stip_server.sessions import admission as module
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.session import AttachedStream, Session
from stip_server.sessions.sessions import Sessions

TTL = 10.0
LONG = 30.0  # seconds that no test should take


class Stream:
    """The stream of a session; ignores what happens to it."""

    waits_for_server = False

    def taken_over(self, session: Session) -> None:
        pass

    def evicted(self, session: Session) -> None:
        pass


class House:
    """Room for 100 tokens in all, and the requests for it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sessions = Sessions(
            Quotas(max_sessions=10, kv_bytes=100),
            AnswerMemory(0, 0),
            kv_bytes=lambda length: length,
            ttl=TTL,
            clock=lambda: self.now,
            release=lambda _: None,
            ended=lambda _: None,
        )
        self.admission = Admission(self.sessions)

    def open(self, length: int, wait: float = LONG, identity: str = "me") -> asyncio.Task[Session]:
        return asyncio.create_task(self.admission.open(identity, length, Stream(), wait))

    async def waits(self, length: int, identity: str = "me") -> asyncio.Task[Session]:
        """The task of an open that waits for room."""
        before = len(self.admission)
        task = self.open(length, identity=identity)
        await settle()
        assert not task.done()
        assert len(self.admission) == before + 1
        return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[House], Awaitable[Any]]) -> None:
    async def main() -> None:
        house = House()
        await asyncio.wait_for(scenario(house), LONG)
        await settle()
        assert len(house.admission) == 0

    asyncio.run(main())


def test_a_request_that_fits_does_not_wait() -> None:
    async def scenario(house: House) -> None:
        assert (await house.open(100, wait=0)).max_length == 100

    run(scenario)


@pytest.mark.parametrize("length", [50, 101])
def test_a_request_that_may_not_wait_or_can_never_fit_is_refused_at_once(length: int) -> None:
    async def scenario(house: House) -> None:
        await house.open(60)
        task = house.open(length, wait=0 if length == 50 else LONG)
        await settle()
        error = task.exception()
        assert isinstance(error, ServiceError)
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (error.retry_after is None) == (length == 101)

    run(scenario)


def test_a_session_that_ends_makes_room_for_one_that_waits() -> None:
    async def scenario(house: House) -> None:
        first = await house.open(60)
        waiting = await house.waits(50)
        house.sessions.close(first)
        house.admission.retry()
        house.admission.retry()  # there is room for two, but it asked for one
        session = await waiting
        assert session in house.sessions
        assert house.sessions.kv_bytes_reserved == 50

    run(scenario)


def test_waiting_requests_are_admitted_in_the_order_in_which_they_came() -> None:
    async def scenario(house: House) -> None:
        open_sessions = [await house.open(50), await house.open(50)]
        waiting = [await house.waits(50) for _ in range(4)]
        for number in range(4):
            house.sessions.close(open_sessions.pop(0))
            open_sessions.append(await waiting[number])
            assert not any(task.done() for task in waiting[number + 1 :])

    run(scenario)


def test_a_request_that_does_not_fit_yet_delays_none_behind_it_and_gets_its_room() -> None:
    async def scenario(house: House) -> None:
        small, large = await house.open(10), await house.open(80)
        whole, part = await house.waits(100), await house.waits(20)
        house.sessions.close(small)
        behind = await part
        assert not whole.done()
        house.sessions.close(large)
        await settle()
        assert not whole.done()
        house.sessions.close(behind)
        assert (await whole).max_length == 100

    run(scenario)


def test_of_requests_for_the_same_length_only_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(house: House) -> None:
        await house.open(100)
        waiting = [await house.waits(length) for length in (50, 50, 60, 50)]
        waiting.append(await house.waits(50, "you"))
        tried, open_session = [], house.sessions.open

        def counted(identity: str, max_length: int, stream: AttachedStream) -> Session:
            tried.append((identity, max_length))
            return open_session(identity, max_length, stream)

        monkeypatch.setattr(house.sessions, "open", counted)
        house.admission.retry()
        assert tried == [("me", 50), ("me", 60), ("you", 50)]
        for task in waiting:
            task.cancel()

    run(scenario)


def test_no_later_request_takes_the_room_of_a_waiting_one() -> None:
    async def scenario(house: House) -> None:
        idle = await house.open(100)
        waiting = await house.waits(100)
        house.now += TTL  # from now on there is room, and nobody has been told
        late = house.open(100, wait=0)
        session = await waiting
        with pytest.raises(ServiceError):
            await late
        assert idle not in house.sessions
        assert session in house.sessions

    run(scenario)


def test_time_makes_room_too() -> None:
    async def scenario(house: House) -> None:
        await house.open(100)
        waiting = await house.waits(100)
        house.admission.retry()
        await settle()
        assert not waiting.done()
        house.now += TTL
        house.admission.retry()
        await waiting

    run(scenario)


def test_a_request_that_has_waited_long_enough_is_refused_with_the_latest_retry_after() -> None:
    async def scenario(house: House) -> None:
        parked = await house.open(100)
        house.sessions.park(parked)
        task = house.open(100, wait=0.05)
        await settle()
        assert not task.done()
        house.now += TTL / 2
        with pytest.raises(ServiceError) as refused:
            await task
        assert refused.value.retry_after == TTL / 2
        assert len(house.admission) == 0
        house.sessions.close(parked)
        await settle()
        assert len(house.sessions) == 0

    run(scenario)


def test_a_caller_that_leaves_while_it_waits_takes_no_room() -> None:
    async def scenario(house: House) -> None:
        first = await house.open(100)
        waiting = [await house.waits(100) for _ in range(2)]
        waiting[0].cancel()
        house.sessions.close(first)
        assert await waiting[1] in house.sessions
        assert waiting[0].cancelled()
        assert len(house.sessions) == 1

    run(scenario)


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_caller_that_leaves_at_the_moment_of_its_admission_leaves_nothing(
    cancelled_first: bool,
) -> None:
    async def scenario(house: House) -> None:
        first = await house.open(100)
        waiting, next_one = await house.waits(100), await house.waits(100)
        if cancelled_first:
            waiting.cancel()
        house.sessions.close(first)
        house.admission.retry()  # now, and not when the loop comes round
        assert len(house.sessions) == 1
        if not cancelled_first:
            waiting.cancel()
        # its session goes to the next request
        assert await next_one in house.sessions
        assert waiting.cancelled()
        assert len(house.sessions) == 1

    run(scenario)


def test_closing_fails_waiting_requests_and_later_ones() -> None:
    async def scenario(house: House) -> None:
        first = await house.open(100)
        waiting = [await house.waits(50) for _ in range(3)]
        waiting[0].cancel()
        house.admission.close(ServiceError(ErrorReason.ERROR_REASON_DRAINING, "bye"))
        late = house.open(50)
        await settle()
        assert waiting[0].cancelled()
        for task in (*waiting[1:], late):
            error = task.exception()
            assert isinstance(error, ServiceError) and reason_name(error.reason) == "DRAINING"
        house.sessions.close(first)
        await settle()
        assert len(house.sessions) == 0

    run(scenario)


def test_no_more_than_a_number_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 8)

    async def scenario(house: House) -> None:
        await house.open(100)
        waiting = []
        for identity, places in (
            ("me", 4),
            ("you", 2),
            ("they", 1),
        ):  # half of the rest
            waiting += [await house.waits(50, identity) for _ in range(places)]
            with pytest.raises(ServiceError):
                await house.open(50, identity=identity)
        for task in waiting:
            task.cancel()

    run(scenario)


def test_no_error_of_a_closed_admission_goes_unretrieved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    test_closing_fails_waiting_requests_and_later_ones()
    assert not caplog.records
