"""All sessions of a server: who has which, how long they live, and which make room for others.

A session is attached to the stream that opened or resumed it. When the stream breaks, the session
is parked: its identity can resume it by its id during its time to live. A session that is idle for
as long on a stream stays until its memory is needed; the least recently used goes first.

Plain Python with an injected clock: no gRPC, no MLX.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence

from stip.v1.errors_pb2 import ErrorReason
from stip_server.errors import ServiceError
from stip_server.observe.logs import event, session_label
from stip_server.observe.metrics import EndCause
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.session import ID_BYTES, AttachedStream, Session

log = logging.getLogger(__name__)

# Seconds after which to ask again, where no session's end is known.
RETRY_AFTER = 1.0


def session_gone() -> ServiceError:
    """The error for a session that no longer exists, or belongs to another caller."""
    return ServiceError(
        ErrorReason.ERROR_REASON_SESSION_GONE,
        "no such session: it was closed, has expired, or the server was restarted",
    )


class Sessions:
    """All sessions of a server.

    When a session ends, `release` is called with its id and `ended` with the cause. `kv_bytes`
    returns the bytes of keys and values that a number of tokens takes. `ttl` is in seconds.
    """

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
        self._quotas = quotas
        self.answer_memory = answer_memory
        self._kv_bytes = kv_bytes
        self._ttl = ttl
        self._clock = clock
        self._release = release
        self._ended = ended
        self._sessions: dict[bytes, Session] = {}
        # called after a session has ended, since a waiting open request may fit now
        self.on_room_freed: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: Session) -> bool:
        return self._sessions.get(session.id) is session

    @property
    def attached(self) -> int:
        """The number of sessions that are attached to a stream."""
        return sum(session.stream is not None for session in self._all())

    @property
    def kv_bytes_reserved(self) -> int:
        """Bytes of keys and values that all sessions together have reserved."""
        return sum(session.kv_bytes for session in self._all())

    def open(self, identity: str, max_length: int, stream: AttachedStream) -> Session:
        """A new session, attached to `stream`.

        Raises ServiceError where there is no room. Its retry_after is the number of seconds until
        there may be room, or None where waiting cannot help.
        """
        self.expire()
        if self.answer_memory.overdrawn:
            raise ServiceError(
                ErrorReason.ERROR_REASON_ANSWER_MEMORY,
                "clients that have gone have left too many answers unread",
                retry_after=RETRY_AFTER,
            )
        kv_bytes = self._kv_bytes(max_length)
        for each in self._to_evict_for(identity, kv_bytes):
            self._evict(each)
        session_id = secrets.token_bytes(ID_BYTES)
        session = Session(session_id, identity, max_length, kv_bytes, self._clock(), stream)
        self._sessions[session_id] = session
        event(
            log,
            logging.DEBUG,
            "session opened",
            session=session_label(session_id),
            identity=identity,
            max_length=max_length,
        )
        return session

    def find(self, session_id: bytes, identity: str) -> Session:
        """The caller's session with this id. Raises ServiceError (SESSION_GONE)."""
        self.expire()
        session = self._sessions.get(session_id)
        if session is None or session.identity != identity:
            raise session_gone()
        return session

    def resume(self, session_id: bytes, identity: str, stream: AttachedStream) -> Session:
        """Attach an existing session, and take it over from the stream that it is attached to.

        The engine may still have steps of the other stream. Raises ServiceError (SESSION_GONE).
        """
        session = self.find(session_id, identity)
        if session.stream is not None:
            session.stream.taken_over(session)
        session.stream = stream
        self.touch(session)
        return session

    def touch(self, session: Session) -> None:
        """Record that the session is in use now."""
        session.last_used = self._clock()

    def detach(self, session: Session) -> None:
        """Park a session whose stream has ended, or close it where no client knows its id."""
        if session.known:
            self.park(session)
        else:
            self.close(session)

    def park(self, session: Session) -> None:
        """Keep a session without a stream, until its time to live is over."""
        session.stream = None
        self.touch(session)

    def close(self, session: Session, cause: EndCause = "closed") -> None:
        """End a session and free its memory."""
        session.stream = None
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
            self.on_room_freed()

    def close_parked(self, is_revoked: Callable[[str], bool]) -> None:
        """End the parked sessions of every identity that is revoked."""
        for session in self._all():
            if session.stream is None and is_revoked(session.identity):
                self.close(session, "revoked")

    def expire(self) -> None:
        """Close every session that has been parked for longer than the time to live."""
        for session in self._all():
            if session.stream is None and self._is_idle(session):
                self.close(session, "expired")

    def _to_evict_for(self, identity: str, kv_bytes: int) -> list[Session]:
        """The idle sessions that make room for a new one. Raises ServiceError."""
        remaining = list(self._all())
        to_evict = []
        while (shortage := self._quotas.shortage(identity, kv_bytes, remaining)) is not None:
            owner = shortage.identity
            idle = [each for each in _owned_by(owner, remaining) if self._is_idle(each)]
            if shortage.permanent or not idle:
                retry_after = None if shortage.permanent else self._seconds_until_room(owner)
                raise ServiceError(shortage.reason, shortage.message, retry_after=retry_after)
            to_evict.append(min(idle, key=lambda session: session.last_used))
            remaining.remove(to_evict[-1])
        return to_evict

    def _evict(self, session: Session) -> None:
        stream = session.stream
        self.close(session, "evicted")
        if stream is not None:
            stream.evicted(session)

    def _is_idle(self, session: Session) -> bool:
        stream = session.stream
        busy = session.under_way or (stream is not None and stream.waits_for_server)
        return not busy and self._clock() - session.last_used >= self._ttl

    def _seconds_until_room(self, identity: str | None) -> float:
        sessions = _owned_by(identity, self._all())
        parked = [each.last_used for each in sessions if each.stream is None]
        seconds = min(parked) + self._ttl - self._clock() if parked else RETRY_AFTER
        return seconds if seconds > 0 else RETRY_AFTER  # due, but a step of it still runs

    def _all(self) -> tuple[Session, ...]:
        # a copy, since the thread that gathers metrics reads it too
        return tuple(self._sessions.values())


def _owned_by(identity: str | None, sessions: Sequence[Session]) -> list[Session]:
    """The sessions of an identity; all of them for None."""
    return [each for each in sessions if identity is None or each.identity == identity]
