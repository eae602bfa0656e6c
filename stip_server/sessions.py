"""Who holds which session. Plain Python with an injected clock: no gRPC, no MLX.

A session is attached to the stream that opened or resumed it. When the stream breaks it is parked,
and may be resumed by its id until its time to live is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stip_server.errors import NotFound, ResourceExhausted

ID_BYTES = 16


class Holder(Protocol):
    """A stream that holds a session."""

    def taken_over(self, session: Session) -> None:
        """Another stream has resumed the session."""


def session_gone() -> NotFound:
    """The error for a session that no longer exists."""
    return NotFound("SESSION_GONE", "no such session: it was closed or has expired")


@dataclass(eq=False)
class Session:
    """A session's id and lengths; its cache lives in the engine.

    `length` tokens have been computed; `end` counts those of the steps under way as well.
    `holder` is the stream that the session is attached to. `outstanding` steps are with the engine;
    each of `when_idle` is called once when none is left.
    """

    id: bytes
    max_length: int
    length: int = 0
    end: int = 0
    parked_at: float | None = None
    holder: Holder | None = None
    outstanding: int = 0
    when_idle: list[Callable[[], None]] = field(default_factory=list)

    def step_done(self) -> None:
        """One of the outstanding steps has been computed, has failed or was cancelled."""
        self.outstanding -= 1
        if not self.outstanding:
            waiting, self.when_idle = self.when_idle, []
            for each in waiting:
                each()


class Sessions:
    """All sessions of a server. `release` is told the id of each session that ends."""

    def __init__(
        self,
        *,
        max_sessions: int,
        ttl: float,
        clock: Callable[[], float],
        release: Callable[[bytes], None],
    ) -> None:
        self._max_sessions = max_sessions
        self._ttl = ttl
        self._clock = clock
        self._release = release
        self._sessions: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: Session) -> bool:
        return self._sessions.get(session.id) is session

    def open(self, max_length: int) -> Session:
        """A new, attached session. Raises ResourceExhausted with the time until one may be free."""
        self.expire()
        if len(self._sessions) >= self._max_sessions:
            raise ResourceExhausted(
                "TOO_MANY_SESSIONS",
                f"all {self._max_sessions} sessions are in use",
                retry_after=self._seconds_until_free(),
            )
        session = Session(secrets.token_bytes(ID_BYTES), max_length)
        self._sessions[session.id] = session
        return session

    def resume(self, session_id: bytes) -> Session:
        """Attach an existing session, taking it over from the stream that still holds it, if any.

        The steps that the other stream left with the engine may still be outstanding.
        Raises NotFound.
        """
        self.expire()
        session = self._sessions.get(session_id)
        if session is None:
            raise session_gone()
        if session.holder is not None:
            session.holder.taken_over(session)
        session.holder = None
        session.parked_at = None
        return session

    def park(self, session: Session) -> None:
        """Detach a session whose stream broke; it can be resumed until its time to live is over."""
        session.holder = None
        session.parked_at = self._clock()

    def close(self, session: Session) -> None:
        """End a session and free what it holds."""
        session.holder = None
        if self._sessions.pop(session.id, None) is not None:
            self._release(session.id)

    def expire(self) -> None:
        """Close every session that has been parked for longer than the time to live."""
        now = self._clock()
        for session in list(self._sessions.values()):
            if session.parked_at is not None and now - session.parked_at >= self._ttl:
                self.close(session)

    def _seconds_until_free(self) -> float:
        parked = [s.parked_at for s in self._sessions.values() if s.parked_at is not None]
        return max(0.0, min(parked) + self._ttl - self._clock()) if parked else 1.0
