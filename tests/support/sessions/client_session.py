"""What tests do to a session of our client behind its back."""

from __future__ import annotations

from stip_client import AsyncSession, Session
from stip_client.session.session_core import SessionCore


def core_of(session: Session | AsyncSession) -> SessionCore:
    return _shared(session).core


def drop_stream(session: Session | AsyncSession) -> None:
    """Break the session's stream; the client knows of it."""
    stream = _shared(session)._stream
    assert stream._call is not None
    stream.drop()


def _shared(session: Session | AsyncSession) -> AsyncSession:
    return session._session if isinstance(session, Session) else session
