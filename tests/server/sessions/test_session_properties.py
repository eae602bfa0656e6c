"""Sessions as a state machine: what is promised fits, and ends once, for a reason that is true."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from stip_server.errors import ServiceError, reason_name
from stip_server.observe.metrics import EndCause
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.session import ID_BYTES, Session
from stip_server.sessions.sessions import RETRY_AFTER, Sessions

TTL = 10.0
BYTES_PER_TOKEN = 3
CALLERS = st.sampled_from(["ann", "bob", "cy"])
LENGTHS = st.integers(1, 12) | st.integers(1, 45)
WHICH = st.integers(0, 99)  # of the sessions that there are
QUOTAS = st.builds(
    Quotas,
    max_sessions=st.integers(1, 6),
    kv_bytes=st.integers(30, 120),
    max_sessions_per_identity=st.none() | st.integers(1, 3),
    kv_bytes_per_identity=st.none() | st.integers(20, 60),
)


class Stream:
    """The stream of a session; remembers how it lost sessions."""

    waits_for_server = False

    def __init__(self) -> None:
        self.lost: list[str] = []

    def taken_over(self, _: Session) -> None:
        self.lost.append("taken over")

    def evicted(self, _: Session) -> None:
        self.lost.append("evicted")


@dataclass(eq=False)
class Expected:
    """What is known of a session that exists."""

    session: Session
    identity: str
    size: int
    stream: Stream | None
    last_used: float
    outstanding: list[int] = field(default_factory=list)


class SessionsMachine(RuleBasedStateMachine):
    """Three callers open, lose, resume and close sessions, and steps come and go in them."""

    @initialize(quotas=QUOTAS)
    def start(self, quotas: Quotas) -> None:
        self.now = 100.0
        self.quotas = quotas
        self.ended: list[tuple[bytes, EndCause]] = []
        self.expected_ends: list[tuple[bytes, EndCause]] = []
        self.released: list[bytes] = []
        self.live: list[Expected] = []
        self.gone: list[Expected] = []
        self.times_told_of_room = 0
        self.sessions = Sessions(
            quotas,
            AnswerMemory(0, 0),
            kv_bytes=lambda length: BYTES_PER_TOKEN * length,
            ttl=TTL,
            clock=lambda: self.now,
            release=self.released.append,
            ended=lambda cause: self.ended.append((self.released[-1], cause)),
        )
        self.sessions.on_room_freed = self.told_of_room

    def told_of_room(self) -> None:
        self.times_told_of_room += 1

    # -- what callers do -------------------------------------------------------------------------

    @rule(callers=st.lists(CALLERS, min_size=1, max_size=4), length=LENGTHS)
    def open_some(self, callers: list[str], length: int) -> None:
        for identity in callers:
            self.now += 0.5
            self.open(identity, length)

    @rule(callers=st.lists(CALLERS, min_size=1, max_size=4), length=LENGTHS)
    def open_some_after_everyone_was_idle(self, callers: list[str], length: int) -> None:
        self.now += TTL
        self.open_some(callers, length)

    def open(self, identity: str, length: int) -> None:
        stream, size = Stream(), BYTES_PER_TOKEN * length
        self.expect_expiries()
        evicted, refusal = self.expected_room(identity, size)
        if refusal is not None:
            reason, retry_after = refusal
            with pytest.raises(ServiceError) as refused:
                self.sessions.open(identity, length, stream)
            assert (reason_name(refused.value.reason), refused.value.retry_after) == (
                reason,
                retry_after,
            )
            return
        session = self.sessions.open(identity, length, stream)
        for each in evicted:
            assert each.stream is not None
            assert each.stream.lost[-1] == "evicted"
            self.expect_end(each, "evicted")
        assert len(session.id) == ID_BYTES
        assert session.id not in {each.session.id for each in self.live + self.gone}
        self.live.append(Expected(session, identity, size, stream, self.now))

    @precondition(lambda self: self.live)
    @rule(which=WHICH, length=LENGTHS)
    def fork(self, which: int, length: int) -> None:
        """Open a session next to one of the same caller, which must not make room for it."""
        source = self.pick(which)
        self.expect_expiries()
        if source not in self.live:
            with pytest.raises(ServiceError, match="no such session"):
                self.sessions.find(source.session.id, source.identity)
            return
        self.sessions.touch(self.sessions.find(source.session.id, source.identity))
        source.last_used = self.now
        self.open(source.identity, length)
        assert source.session in self.sessions

    @precondition(lambda self: self.live or self.gone)
    @rule(which=WHICH, identity=CALLERS)
    def resume(self, which: int, identity: str) -> None:
        wanted, stream = self.pick(which, self.live + self.gone), Stream()
        self.expect_expiries()
        if wanted in self.gone or wanted.identity != identity:
            with pytest.raises(ServiceError, match="no such session"):
                self.sessions.resume(wanted.session.id, identity, stream)
            return
        assert self.sessions.resume(wanted.session.id, identity, stream) is wanted.session
        if wanted.stream is not None:
            assert wanted.stream.lost == ["taken over"]
        wanted.stream, wanted.last_used = stream, self.now

    @precondition(lambda self: self.live)
    @rule(which=WHICH, known=st.booleans())
    def break_off(self, which: int, known: bool) -> None:
        each = self.pick(which)
        each.session.known = known
        self.sessions.detach(each.session)
        each.stream, each.last_used = None, self.now
        if not known:
            self.expect_end(each, "closed")

    @precondition(lambda self: self.live or self.gone)
    @rule(which=WHICH, cause=st.sampled_from(["closed", "failed"]))
    def close(self, which: int, cause: EndCause) -> None:
        """Close a session, or one that has gone already: a stream may learn of it late."""
        each = self.pick(which, self.live + self.gone)
        self.sessions.close(each.session, cause)
        if each in self.live:
            self.expect_end(each, cause)

    # -- what the engine and the clock do --------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(which=WHICH)
    def begin_step(self, which: int) -> None:
        each = self.pick(which)
        each.outstanding.append(each.session.step_begun(0))

    @precondition(lambda self: any(each.stream for each in self.live))
    @rule(which=WHICH)
    def hold_up_or_let_on(self, which: int) -> None:
        each = self.pick(which, [each for each in self.live if each.stream])
        assert each.stream is not None
        each.stream.waits_for_server = not each.stream.waits_for_server

    @precondition(lambda self: any(each.outstanding for each in self.live + self.gone))
    @rule(which=WHICH, step=WHICH)
    def end_step(self, which: int, step: int) -> None:
        each = self.pick(which, [each for each in self.live + self.gone if each.outstanding])
        self.sessions.touch(each.session)
        each.session.step_done(each.outstanding.pop(step % len(each.outstanding)))
        each.last_used = self.now

    @rule(seconds=st.sampled_from([0.5, TTL - 1.0, TTL, TTL + 0.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.expect_expiries()
        self.sessions.expire()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def what_is_promised_is_what_the_sessions_hold_and_within_the_quotas(self) -> None:
        quotas = self.quotas
        assert len(self.sessions) == len(self.live) <= quotas.max_sessions
        reserved = sum(each.size for each in self.live)
        assert self.sessions.kv_bytes_reserved == reserved <= quotas.kv_bytes
        assert self.sessions.attached == sum(each.stream is not None for each in self.live)
        for identity in {each.identity for each in self.live}:
            held = [each.size for each in self.live if each.identity == identity]
            assert len(held) <= (quotas.max_sessions_per_identity or len(held))
            assert sum(held) <= (quotas.kv_bytes_per_identity or sum(held))

    @invariant()
    def every_session_ends_once_and_for_its_cause(self) -> None:
        assert self.ended == self.expected_ends
        assert self.released == [session_id for session_id, _ in self.expected_ends]
        assert self.times_told_of_room == len(self.expected_ends)
        assert all(each.session in self.sessions for each in self.live)
        assert not any(each.session in self.sessions for each in self.gone)

    # -- the model -------------------------------------------------------------------------------

    def pick(self, which: int, among: list[Expected] | None = None) -> Expected:
        among = self.live if among is None else among
        return among[which % len(among)]

    def is_idle(self, each: Expected) -> bool:
        waits_for_server = each.stream is not None and each.stream.waits_for_server
        return not (each.outstanding or waits_for_server) and self.now - each.last_used >= TTL

    def expect_end(self, each: Expected, cause: EndCause) -> None:
        self.live.remove(each)
        self.gone.append(each)
        self.expected_ends.append((each.session.id, cause))

    def expect_expiries(self) -> None:
        """Whatever looks at the sessions ends those that were parked for too long."""
        for each in list(self.live):
            if each.stream is None and self.is_idle(each):
                self.expect_end(each, "expired")

    def expected_room(
        self, identity: str, size: int
    ) -> tuple[list[Expected], tuple[str, float | None] | None]:
        """The sessions to evict, least recently used first and none too many; or the refusal."""
        quotas = self.quotas
        left, evicted = list(self.live), []
        for prefix, whose, count, size_limit in (
            (
                *("CALLER_", {identity}),
                *(quotas.max_sessions_per_identity, quotas.kv_bytes_per_identity),
            ),
            ("", {"ann", "bob", "cy"}, quotas.max_sessions, quotas.kv_bytes),
        ):
            held = [each for each in left if each.identity in whose]
            idle = sorted(filter(self.is_idle, held), key=lambda each: each.last_used)
            while True:
                if count is not None and len(held) >= count:
                    reason = "CALLER_SESSIONS" if prefix else "TOO_MANY_SESSIONS"
                elif size_limit is not None and sum(e.size for e in held) + size > size_limit:
                    reason = f"{prefix}KV_MEMORY"
                    if size > size_limit:
                        return [], (reason, None)  # no waiting can help
                else:
                    break
                if not idle:
                    return [], (reason, self.seconds_until_room(whose))
                evicted.append(idle.pop(0))
                held.remove(evicted[-1])
                left.remove(evicted[-1])
        return evicted, None

    def seconds_until_room(self, whose: set[str]) -> float:
        parked = [e.last_used for e in self.live if e.stream is None and e.identity in whose]
        left = min(parked) + TTL - self.now if parked else RETRY_AFTER
        return left if left > 0 else RETRY_AFTER


TestSessions = SessionsMachine.TestCase
TestSessions.settings = settings(max_examples=150, stateful_step_count=40)
