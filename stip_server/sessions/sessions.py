"""Who holds which session, and how much memory is promised to it. Plain Python with an injected
clock: no gRPC, no MLX.

A session belongs to the identity that opened it, and is attached to the stream that opened or
resumed it. When the stream breaks it is parked, and may be resumed by its id until it has been idle
for its time to live. A session that has been idle for as long while attached stays, until its room
is needed: then the least recently used goes first.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stip.v1.errors_pb2 import ErrorReason
from stip_server.errors import ServiceError
from stip_server.observe.logs import event, session_label
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory, UnreadAnswers

log = logging.getLogger(__name__)

ID_BYTES = 16
EndCause = Literal["closed", "expired", "evicted", "revoked", "failed"]
# When nothing tells how long a session will live: seconds after which to ask again.
RETRY_AFTER = 1.0


class Holder(Protocol):
    """A stream that holds a session."""

    @property
    def held_up(self) -> bool:
        """Whether a step of it waits for the server, and not for its own client to read."""

    def taken_over(self, session: Session) -> None:
        """Another stream has resumed the session."""

    def evicted(self, session: Session) -> None:
        """The session was closed, because it was idle and its room was needed."""


def session_gone() -> ServiceError:
    """The error for a session that no longer exists, or is another caller's."""
    return ServiceError(
        ErrorReason.ERROR_REASON_SESSION_GONE,
        "no such session: it was closed, has expired, or the server was restarted",
    )


@dataclass(frozen=True)
class Quotas:
    """What all sessions together, and those of one identity, may take. None is no limit."""

    max_sessions: int
    kv_bytes: int
    max_sessions_per_identity: int | None = None
    kv_bytes_per_identity: int | None = None


@dataclass(eq=False)
class Session:
    """A session's id, owner and lengths; its cache lives in the engine.

    `length` tokens have been computed; `end` counts those of the steps under way as well.
    `kv_bytes` are reserved for max_length tokens, `unread` for what is not read yet. `known` is
    whether the client may know the id. `holder` is the stream that the session is attached to.
    `under_way` are the positions of the steps that are with the engine, by their numbers.
    """

    id: bytes
    identity: str
    max_length: int
    kv_bytes: int
    last_used: float
    unread: UnreadAnswers = field(default_factory=UnreadAnswers)
    length: int = 0
    end: int = 0
    known: bool = False
    holder: Holder | None = None
    under_way: dict[int, int] = field(default_factory=dict)
    _begun: int = 0  # steps, since the session was opened
    _when_done: list[tuple[set[int], Callable[[], None]]] = field(default_factory=list)

    def step_begun(self, position: int) -> int:
        """A step has been given to the engine; its number."""
        self._begun += 1
        self.under_way[self._begun] = position
        return self._begun

    def step_done(self, number: int) -> None:
        """It has been computed, has failed or was cancelled, which may come out of order."""
        del self.under_way[number]
        for steps, _ in self._when_done:
            steps.discard(number)
        due = [call for steps, call in self._when_done if not steps]
        self._when_done = [each for each in self._when_done if each[0]]
        for call in due:
            call()

    def when_done(self, call: Callable[[], None]) -> None:
        """Call once, when the steps that are under way now are not any more: later ones may be."""
        if self.under_way:
            self._when_done.append((set(self.under_way), call))
        else:
            call()


class Sessions:
    """All sessions of a server. `release` is told the id of each session that ends."""

    def __init__(
        self,
        quotas: Quotas,
        answer_memory: AnswerMemory,
        *,
        kv_bytes: Callable[[int], int],
        ttl: float,
        clock: Callable[[], float],
        release: Callable[[bytes], None],
        ended: Callable[[EndCause], None],
    ) -> None:
        """`kv_bytes` tells the bytes of keys and values that a number of tokens takes; `ended` is
        told why each session ended."""
        self._quotas = quotas
        self.answer_memory = answer_memory
        self._kv_bytes = kv_bytes
        self._ttl = ttl
        self._clock = clock
        self._release = release
        self._ended = ended
        self._sessions: dict[bytes, Session] = {}
        # called whenever a session has ended: whoever waits for room may try again
        self.on_room: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: Session) -> bool:
        return self._sessions.get(session.id) is session

    @property
    def attached(self) -> int:
        """The number of sessions that a stream holds."""
        return sum(session.holder is not None for session in self._all())

    @property
    def kv_bytes_reserved(self) -> int:
        """Bytes of keys and values that all sessions together have reserved."""
        return sum(session.kv_bytes for session in self._all())

    def open(self, identity: str, max_length: int, holder: Holder) -> Session:
        """A new session, attached to `holder`.

        Raises ServiceError with the seconds until there may be room; without them where
        waiting cannot help.
        """
        self.expire()
        if self.answer_memory.overdrawn:
            raise ServiceError(
                ErrorReason.ERROR_REASON_ANSWER_MEMORY,
                "clients that have gone have left too many answers unread",
                retry_after=RETRY_AFTER,
            )
        kv_bytes = self._kv_bytes(max_length)
        evicted: list[Session] = []
        while (refusal := self._refusal(identity, kv_bytes, without=evicted)) is not None:
            idle = self._least_recently_used_idle(of=refusal.identity, without=evicted)
            if refusal.error.retry_after is None or idle is None:
                raise refusal.error
            evicted.append(idle)
        for each in evicted:
            self._evict(each)
        session = Session(
            secrets.token_bytes(ID_BYTES),
            identity,
            max_length,
            kv_bytes,
            self._clock(),
        )
        session.holder = holder
        self._sessions[session.id] = session
        event(
            log,
            logging.DEBUG,
            "session opened",
            session=session_label(session.id),
            identity=identity,
            max_length=max_length,
        )
        return session

    def find(self, session_id: bytes, identity: str) -> Session:
        """The caller's session of that id. Raises ServiceError."""
        self.expire()
        session = self._sessions.get(session_id)
        if session is None or session.identity != identity:
            raise session_gone()
        return session

    def resume(self, session_id: bytes, identity: str, holder: Holder) -> Session:
        """Attach an existing session, taking it over from the stream that still holds it, if any.

        The steps that the other stream left with the engine may still be outstanding.
        Raises ServiceError.
        """
        session = self.find(session_id, identity)
        if session.holder is not None:
            session.holder.taken_over(session)
        session.holder = holder
        self.used(session)
        return session

    def used(self, session: Session) -> None:
        """The session is in use now."""
        session.last_used = self._clock()

    def let_go(self, session: Session) -> None:
        """Park a session whose stream broke; close it where nobody knows its id."""
        if session.known:
            self.park(session)
        else:
            self.close(session)

    def park(self, session: Session) -> None:
        """Detach a session; it can be resumed until its time to live is over."""
        session.holder = None
        self.used(session)

    def close(self, session: Session, cause: EndCause = "closed") -> None:
        """End a session and free what it holds."""
        session.holder = None
        if self._sessions.pop(session.id, None) is not None:
            self._release(session.id)
            self.answer_memory.end_session(session.unread)
            self._ended(cause)
            event(
                log,
                logging.DEBUG if cause == "closed" else logging.INFO,
                "session ended",
                session=session_label(session.id),
                identity=session.identity,
                cause=cause,
                tokens=session.length,
            )
            self.on_room()

    def close_of(self, identities: Callable[[str], bool]) -> None:
        """End the parked sessions of every identity for which `identities` is true."""
        for session in self._all():
            if session.holder is None and identities(session.identity):
                self.close(session, "revoked")

    def expire(self) -> None:
        """Close every session that has been parked for longer than the time to live."""
        for session in self._all():
            if session.holder is None and self._is_idle(session):
                self.close(session, "expired")

    def _evict(self, session: Session) -> None:
        holder = session.holder
        self.close(session, "evicted")
        if holder is not None:
            holder.evicted(session)

    def _is_idle(self, session: Session) -> bool:
        held_up = session.holder is not None and session.holder.held_up
        busy = session.under_way or held_up
        return not busy and self._clock() - session.last_used >= self._ttl

    def _least_recently_used_idle(
        self, of: str | None, without: Sequence[Session]
    ) -> Session | None:
        idle = [each for each in self._of(of, without) if self._is_idle(each)]
        return min(idle, key=lambda session: session.last_used, default=None)

    def _of(self, identity: str | None, without: Sequence[Session] = ()) -> list[Session]:
        """The sessions of an identity, some left out; of all for None."""
        sessions = [each for each in self._all() if each not in without]
        return [each for each in sessions if identity is None or each.identity == identity]

    def _all(self) -> tuple[Session, ...]:
        # at once, since the thread that gathers metrics looks as well
        return tuple(self._sessions.values())

    def _refusal(self, identity: str, kv_bytes: int, without: Sequence[Session]) -> _Refusal | None:
        """Why a session of so many bytes cannot be opened now."""
        quotas = self._quotas
        for whose, of, sessions_reason, max_sessions, memory_reason, max_bytes in (
            (
                "the caller",
                identity,
                ErrorReason.ERROR_REASON_CALLER_SESSIONS,
                quotas.max_sessions_per_identity,
                ErrorReason.ERROR_REASON_CALLER_KV_MEMORY,
                quotas.kv_bytes_per_identity,
            ),
            (
                "the server",
                None,
                ErrorReason.ERROR_REASON_TOO_MANY_SESSIONS,
                quotas.max_sessions,
                ErrorReason.ERROR_REASON_KV_MEMORY,
                quotas.kv_bytes,
            ),
        ):
            held = self._of(of, without)
            if max_sessions is not None and len(held) >= max_sessions:
                message = f"{whose} has as many sessions as it may: {max_sessions}"
                return self._refuse(sessions_reason, message, of)
            if max_bytes is not None and sum(each.kv_bytes for each in held) + kv_bytes > max_bytes:
                message = (
                    f"the session takes {kv_bytes} bytes of keys and values; {whose} has "
                    f"{max_bytes - sum(each.kv_bytes for each in held)} of {max_bytes} left"
                )
                return self._refuse(memory_reason, message, of, hopeless=kv_bytes > max_bytes)
        return None

    def _refuse(
        self, reason: ErrorReason, message: str, identity: str | None, *, hopeless: bool = False
    ) -> _Refusal:
        retry_after = None if hopeless else self._seconds_until_room(identity)
        return _Refusal(ServiceError(reason, message, retry_after=retry_after), identity)

    def _seconds_until_room(self, identity: str | None) -> float:
        parked = [each.last_used for each in self._of(identity) if each.holder is None]
        left = min(parked) + self._ttl - self._clock() if parked else RETRY_AFTER
        return left if left > 0 else RETRY_AFTER  # due, but a step of it still runs


@dataclass(frozen=True)
class _Refusal:
    """An error, and whose sessions would have to end to mend it (None: anyone's)."""

    error: ServiceError
    identity: str | None
