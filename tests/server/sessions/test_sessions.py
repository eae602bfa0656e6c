"""Sessions and their time to live, with an injected clock."""

from __future__ import annotations

import asyncio

import pytest

from stip_server.errors import ServiceError, reason_name
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.session import Session
from stip_server.sessions.sessions import Sessions

OWN = 100  # bytes of answers a session


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """The stream of a session; remembers the sessions that it lost."""

    waits_for_server = False

    def __init__(self) -> None:
        self.lost: list[Session] = []

    def taken_over(self, session: Session) -> None:
        self.lost.append(session)

    def evicted(self, session: Session) -> None:
        self.lost.append(session)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def released() -> list[bytes]:
    return []


@pytest.fixture
def causes() -> list[str]:
    return []


def make_sessions(
    clock: Clock, released: list[bytes], causes: list[str], **quotas: int
) -> Sessions:
    """Sessions of ten bytes a token that live ten seconds; two of them unless told otherwise."""
    return Sessions(
        Quotas(**{"max_sessions": 2, "kv_bytes": 1000, **quotas}),
        AnswerMemory(0, OWN),
        kv_bytes=lambda length: 10 * length,
        ttl=10.0,
        clock=clock,
        release=released.append,
        ended=causes.append,
    )


@pytest.fixture
def sessions(clock: Clock, released: list[bytes], causes: list[str]) -> Sessions:
    return make_sessions(clock, released, causes)


def parked(sessions: Sessions, length: int = 5, identity: str = "me") -> Session:
    session = sessions.open(identity, length, Stream())
    sessions.park(session)
    return session


def test_ids_are_128_random_bits(sessions: Sessions) -> None:
    one, other = (sessions.open("me", 5, Stream()) for _ in range(2))
    assert len(one.id) == len(other.id) == 16
    assert one.id != other.id


def test_a_parked_session_is_resumed_within_its_time_to_live(
    sessions: Sessions, clock: Clock, released: list[bytes]
) -> None:
    session = parked(sessions)
    clock.now += 9.9
    assert sessions.resume(session.id, "me", Stream()) is session
    clock.now += 1000
    sessions.expire()
    assert len(sessions) == 1
    assert released == []


def test_an_expired_session_is_gone_and_freed(
    sessions: Sessions, clock: Clock, released: list[bytes], causes: list[str]
) -> None:
    session = parked(sessions)
    clock.now += 10.0
    with pytest.raises(ServiceError, match="no such session"):
        sessions.resume(session.id, "me", Stream())
    assert (released, causes) == ([session.id], ["expired"])
    assert sessions.kv_bytes_reserved == 0


def test_an_unknown_id_is_not_found(sessions: Sessions) -> None:
    with pytest.raises(ServiceError, match="no such session"):
        sessions.resume(bytes(16), "me", Stream())


def test_a_session_does_not_exist_for_another_identity(sessions: Sessions) -> None:
    session = parked(sessions)
    with pytest.raises(ServiceError, match="no such session") as others:
        sessions.resume(session.id, "someone else", Stream())
    with pytest.raises(ServiceError, match="no such session") as unknown:
        sessions.resume(bytes(16), "someone else", Stream())
    # another caller's session cannot be told from one that does not exist
    assert str(others.value) == str(unknown.value)
    assert others.value.reason == unknown.value.reason
    assert session in sessions


def test_too_many_sessions_are_refused_with_the_time_to_wait(
    sessions: Sessions, clock: Clock
) -> None:
    first = sessions.open("me", 5, Stream())
    sessions.open("me", 5, Stream())
    with pytest.raises(ServiceError) as refused:
        sessions.open("me", 5, Stream())
    assert reason_name(refused.value.reason) == "TOO_MANY_SESSIONS"
    assert refused.value.retry_after is not None
    sessions.park(first)
    clock.now += 4.0
    with pytest.raises(ServiceError) as refused:
        sessions.open("me", 5, Stream())
    assert refused.value.retry_after == pytest.approx(6.0)
    clock.now += 6.0
    assert sessions.open("me", 5, Stream()).id != first.id


def test_bytes_are_reserved_at_open_and_free_at_close(sessions: Sessions) -> None:
    session = sessions.open("me", 60, Stream())
    assert sessions.kv_bytes_reserved == 600
    with pytest.raises(ServiceError) as refused:
        sessions.open("me", 41, Stream())
    assert reason_name(refused.value.reason) == "KV_MEMORY"
    assert refused.value.retry_after is not None
    sessions.open("me", 40, Stream())
    sessions.close(session)
    assert sessions.kv_bytes_reserved == 400


def test_a_session_larger_than_all_memory_is_not_told_to_wait(sessions: Sessions) -> None:
    with pytest.raises(ServiceError) as refused:
        sessions.open("me", 101, Stream())
    assert (reason_name(refused.value.reason), refused.value.retry_after) == ("KV_MEMORY", None)


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        ({"max_sessions_per_identity": 1}, "CALLER_SESSIONS"),
        ({"kv_bytes_per_identity": 90}, "CALLER_KV_MEMORY"),
    ],
)
def test_one_identity_cannot_take_what_is_reserved_for_others(
    quota: dict[str, int], reason: str, clock: Clock, released: list[bytes], causes: list[str]
) -> None:
    sessions = make_sessions(clock, released, causes, **quota)
    sessions.open("greedy", 5, Stream())
    with pytest.raises(ServiceError) as refused:
        sessions.open("greedy", 5, Stream())
    assert reason_name(refused.value.reason) == reason
    sessions.open("modest", 5, Stream())


def test_the_least_recently_used_idle_session_makes_room(
    sessions: Sessions, clock: Clock, released: list[bytes], causes: list[str]
) -> None:
    streams = [Stream(), Stream()]
    first, second = (sessions.open("me", 5, stream) for stream in streams)
    clock.now += 1.0
    sessions.touch(first)
    clock.now += 9.5
    third = sessions.open("me", 5, Stream())  # second has been idle for 10.5 s, first for 9.5
    assert (released, causes) == ([second.id], ["evicted"])
    assert (streams[0].lost, streams[1].lost) == ([], [second])
    assert first in sessions
    assert third in sessions


def test_a_session_whose_step_is_under_way_or_waits_for_the_server_is_never_idle(
    sessions: Sessions, clock: Clock
) -> None:
    sessions.open("me", 5, Stream()).step_begun(0)
    stream = Stream()
    waiting = sessions.open("me", 5, stream)
    stream.waits_for_server = True
    clock.now += 1000
    with pytest.raises(ServiceError):
        sessions.open("me", 5, Stream())
    stream.waits_for_server = False  # it waits only for its own client
    sessions.open("me", 5, Stream())
    assert waiting not in sessions


def test_an_idle_session_of_another_identity_is_not_evicted_for_a_callers_own_limit(
    clock: Clock, released: list[bytes], causes: list[str]
) -> None:
    sessions = make_sessions(clock, released, causes, max_sessions_per_identity=1)
    idle = sessions.open("other", 5, Stream())
    clock.now += 9.0
    sessions.open("me", 5, Stream())
    clock.now += 2.0
    with pytest.raises(ServiceError):
        sessions.open("me", 5, Stream())
    assert idle in sessions


def test_resuming_takes_a_session_over_from_its_stream(sessions: Sessions) -> None:
    stream, other = Stream(), Stream()
    session = sessions.open("me", 5, stream)
    assert sessions.resume(session.id, "me", other) is session
    assert stream.lost == [session]
    assert session.stream is other


def test_closing_frees_once(sessions: Sessions, released: list[bytes], causes: list[str]) -> None:
    session = sessions.open("me", 5, Stream())
    sessions.close(session)
    sessions.close(session)
    assert (released, causes) == ([session.id], ["closed"])
    assert len(sessions) == 0


def test_a_callback_runs_once_the_steps_under_way_at_that_moment_are_done(
    sessions: Sessions,
) -> None:
    session = sessions.open("me", 5, Stream())
    told = []
    session.when_done(lambda: told.append("at once"))
    assert told == ["at once"]
    one, two = session.step_begun(0), session.step_begun(1)
    session.when_done(lambda: told.append("two"))
    three = session.step_begun(2)
    session.when_done(lambda: told.append("three"))
    session.step_done(one)
    # out of order: it was cancelled
    session.step_done(three)
    assert told == ["at once"]
    session.step_done(two)
    assert told == ["at once", "two", "three"]
    session.step_done(session.step_begun(3))
    assert told == ["at once", "two", "three"]


def test_no_session_opens_while_ended_ones_leave_too_many_answers_unread(
    sessions: Sessions,
) -> None:
    session, memory = sessions.open("me", 5, Stream()), sessions.answer_memory
    asyncio.run(memory.reserve(session.unread, OWN))
    sessions.open("me", 5, Stream())
    sessions.close(session)
    with pytest.raises(ServiceError) as refused:
        sessions.open("me", 5, Stream())
    assert (reason_name(refused.value.reason), refused.value.retry_after) == ("ANSWER_MEMORY", 1.0)
    memory.release(session.unread, OWN)
    sessions.open("me", 5, Stream())
