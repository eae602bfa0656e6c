"""Opening forks and resuming, one step at a time on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from stip.v1.inference_pb2 import ForkPoint, Limits, OpenSession
from stip.v1.manifest_pb2 import Head, Manifest
from stip_server.errors import ServiceError
from stip_server.rpc.open_request import SessionOpener
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.session import Session
from stip_server.sessions.sessions import Sessions
from tests.support.waiting import PATIENCE


class Stream:
    """Holds a session."""

    waits_for_server = False

    def taken_over(self, session: Session) -> None: ...

    def evicted(self, session: Session) -> None: ...


@dataclass
class Asked:
    """Remembers what an engine is asked for, in order."""

    manifest: Manifest = field(default_factory=lambda: Manifest(head=Head.HEAD_SERVER))
    forks: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)

    def fork(self, source_id: bytes, session_id: bytes, length: int) -> None:
        self.forks.append((source_id, session_id, length))


LENGTH = 10


class House:
    """A source with ten tokens computed and one step under way, and what opens forks of it."""

    def __init__(self) -> None:
        self.engine = Asked()
        self.sessions = Sessions(
            Quotas(max_sessions=9, kv_bytes=1000),
            AnswerMemory(0, 0),
            kv_bytes=lambda length: length,
            ttl=10.0,
            clock=lambda: 0.0,
            release=self.engine.released.append,
            ended=lambda _: None,
        )
        limits = Limits(max_length=100, default_length=100)
        admission = Admission(self.sessions)
        self.opening = SessionOpener(cast(Any, self.engine), self.sessions, admission, limits)
        self.source = self.sessions.open("me", 50, Stream())
        self.source.length = LENGTH
        self.step = self.source.step_begun(LENGTH)

    def fork(self, length: int = 0) -> asyncio.Task[Session]:
        point = ForkPoint(session_id=self.source.id, length=length)
        return asyncio.create_task(self.opening.open(OpenSession(fork=point), "me", Stream()))

    def resume(self) -> asyncio.Task[Session]:
        request = OpenSession(resume_session_id=self.source.id)
        return asyncio.create_task(self.opening.open(request, "me", Stream()))


async def settle() -> None:
    """Let every task get as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_fork_waits_for_the_steps_under_way_and_counts_them() -> None:
    async def ask() -> None:
        house = House()
        forking = house.fork()
        await settle()
        assert not forking.done()
        house.source.length = 30
        house.source.step_done(house.step)
        fork = await forking
        assert (fork.length, fork.sent_length) == (30, 30)
        assert house.engine.forks == [(house.source.id, fork.id, 30)]

    asyncio.run(ask())


def test_a_fork_waits_for_a_step_that_rolls_back_below_it() -> None:
    """It may do so before the engine has forked."""

    async def ask() -> None:
        house = House()
        below = house.source.step_begun(LENGTH - 1)
        forking = house.fork(LENGTH)
        await settle()
        for _ in range(4):
            again = house.source.step_begun(LENGTH - 1)  # before the fork has its turn
            house.source.step_done(below)
            below = again
            await settle()
            assert house.engine.forks == []
        house.source.length = 30
        for step in (house.step, below):
            house.source.step_done(step)
        assert (await asyncio.wait_for(forking, PATIENCE)).length == LENGTH

    asyncio.run(ask())


def test_a_fork_of_what_is_computed_does_not_wait_for_what_comes_after_it() -> None:
    async def ask() -> None:
        house = House()
        house.source.step_begun(LENGTH + 1)
        assert (await house.fork(LENGTH)).length == LENGTH
        assert list(house.source.under_way.values()) == [LENGTH, LENGTH + 1]

    asyncio.run(ask())


def test_a_fork_of_all_waits_for_what_is_under_way_and_not_for_what_comes_later() -> None:
    async def ask() -> None:
        house = House()
        forking = house.fork()
        await settle()
        house.source.step_begun(LENGTH + 1)
        house.source.length = LENGTH + 1
        house.source.step_done(house.step)
        assert (await forking).length == LENGTH + 1

    asyncio.run(ask())


@pytest.mark.parametrize("begin", [House.fork, House.resume])
def test_a_session_that_ends_while_its_steps_are_waited_for_is_gone(
    begin: Callable[[House], asyncio.Task[Session]],
) -> None:
    async def ask() -> None:
        house = House()
        opening = begin(house)
        await settle()
        house.sessions.close(house.source)
        house.source.step_done(house.step)
        with pytest.raises(ServiceError, match="no such session"):
            await opening
        assert len(house.sessions) == 0
        assert house.engine.forks == []

    asyncio.run(ask())


def test_a_fork_that_is_given_up_while_it_waits_leaves_nothing_behind() -> None:
    async def ask() -> None:
        house = House()
        forking = house.fork()
        await settle()
        forking.cancel()
        await settle()
        house.source.step_done(house.step)
        await settle()
        assert len(house.sessions) == 1
        assert house.engine.forks == []

    asyncio.run(ask())
