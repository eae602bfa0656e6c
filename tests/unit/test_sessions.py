"""Sessions and their time to live, with a clock of our own."""

from __future__ import annotations

import pytest

from stip_server.errors import NotFound, ResourceExhausted
from stip_server.sessions import Session, Sessions


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stream:
    """Holds a session and remembers whether it was taken away."""

    def __init__(self) -> None:
        self.lost: list[Session] = []

    def taken_over(self, session: Session) -> None:
        self.lost.append(session)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def released() -> list[bytes]:
    return []


@pytest.fixture
def sessions(clock: Clock, released: list[bytes]) -> Sessions:
    return Sessions(max_sessions=2, ttl=10.0, clock=clock, release=released.append)


def test_ids_are_128_random_bits(sessions: Sessions) -> None:
    one, other = sessions.open(5), sessions.open(5)
    assert len(one.id) == len(other.id) == 16
    assert one.id != other.id


def test_a_parked_session_is_resumed_within_its_time_to_live(
    sessions: Sessions, clock: Clock, released: list[bytes]
) -> None:
    session = sessions.open(5)
    sessions.park(session)
    clock.now += 9.9
    assert sessions.resume(session.id) is session
    clock.now += 1000
    sessions.expire()
    assert len(sessions) == 1
    assert released == []


def test_an_expired_session_is_gone_and_freed(
    sessions: Sessions, clock: Clock, released: list[bytes]
) -> None:
    session = sessions.open(5)
    sessions.park(session)
    clock.now += 10.0
    with pytest.raises(NotFound):
        sessions.resume(session.id)
    assert released == [session.id]


def test_an_unknown_id_is_not_found(sessions: Sessions) -> None:
    with pytest.raises(NotFound):
        sessions.resume(bytes(16))


def test_too_many_sessions_are_refused_with_the_time_to_wait(
    sessions: Sessions, clock: Clock
) -> None:
    first, _ = sessions.open(5), sessions.open(5)
    with pytest.raises(ResourceExhausted) as refused:
        sessions.open(5)
    assert refused.value.retry_after is not None
    sessions.park(first)
    clock.now += 4.0
    with pytest.raises(ResourceExhausted) as refused:
        sessions.open(5)
    assert refused.value.retry_after == pytest.approx(6.0)
    clock.now += 6.0
    assert sessions.open(5).id != first.id


def test_resuming_takes_a_session_over_from_the_stream_that_holds_it(sessions: Sessions) -> None:
    session, holder = sessions.open(5), Stream()
    session.holder = holder
    assert sessions.resume(session.id) is session
    assert holder.lost == [session]
    assert session.holder is None


def test_closing_frees_once(sessions: Sessions, released: list[bytes]) -> None:
    session = sessions.open(5)
    sessions.close(session)
    sessions.close(session)
    assert released == [session.id]
    assert len(sessions) == 0


def test_whoever_waits_is_told_when_the_last_step_is_done(sessions: Sessions) -> None:
    session, told = sessions.open(5), []
    session.outstanding = 2
    session.when_idle.append(lambda: told.append("idle"))
    session.step_done()
    assert told == []
    session.step_done()
    assert told == ["idle"]
    session.outstanding = 1
    session.step_done()
    assert told == ["idle"]
