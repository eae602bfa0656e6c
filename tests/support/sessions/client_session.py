"""What tests do to a session of our client behind its back."""

from __future__ import annotations

from stip_client import AsyncSession, Session
from stip_client.session.recovering_session import RecoveringSession
from stip_client.session.session_core import SessionCore
from stip_client.transport.interface import Stream


def core_of(session: Session | AsyncSession) -> SessionCore:
    return _recovering(session).core


def drop_stream(session: Session | AsyncSession) -> None:
    """Break the session's stream; the client knows of it."""
    recovering = _recovering(session)
    assert recovering._call is not None
    recovering._drop()


def stream_of(session: Session | AsyncSession) -> Stream | None:
    return _recovering(session)._call


def forget_stream(session: Session | AsyncSession) -> None:
    """Make the client forget the session's stream, which goes on."""
    _recovering(session)._call = None


def _recovering(session: Session | AsyncSession) -> RecoveringSession:
    return (session._session if isinstance(session, Session) else session)._session
