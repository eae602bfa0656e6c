"""Turns an open request into a session: new, forked or resumed. Runs on the event loop's thread."""

from __future__ import annotations

import asyncio

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import Limits, OpenSession
from stip.v1.manifest_pb2 import Head
from stip_model.bundle.modes import head_name
from stip_server.engine.engine import Engine
from stip_server.errors import ServiceError
from stip_server.sessions.admission import Admission
from stip_server.sessions.session import ID_BYTES, AttachedStream, Session
from stip_server.sessions.sessions import Sessions, session_gone

# Characters of a caller's text that an error message repeats.
MAX_SHOWN = 80


class SessionOpener:
    """Opens the sessions of one server."""

    def __init__(
        self, engine: Engine, sessions: Sessions, admission: Admission, limits: Limits
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._admission = admission
        self._limits = limits

    async def open(self, request: OpenSession, identity: str, stream: AttachedStream) -> Session:
        """The session asked for, attached to `stream`, with no step under way.

        Raises ServiceError. Then no session was opened or taken over, except that a session to
        resume may have ended meanwhile.
        """
        self._check_bundle(request)
        if request.resume_session_id:
            return await self._resume(request, identity, stream)
        max_length = self._max_length(request)
        if request.HasField("fork"):
            return await self._fork(request, identity, max_length, stream)
        return await self._admit(request, identity, max_length, stream)

    async def _resume(self, request: OpenSession, identity: str, stream: AttachedStream) -> Session:
        if request.HasField("fork"):
            raise ServiceError(
                ErrorReason.ERROR_REASON_RESUME_AND_FORK,
                "a session is either resumed or forked",
                field="open.fork",
            )
        session = self._sessions.resume(request.resume_session_id, identity, stream)
        try:
            # the steps of an earlier stream count; it sends no others
            await self._steps_done(session)
        except BaseException:
            if session.stream is stream:
                self._sessions.detach(session)
            raise
        session.sent_length = session.length
        return session

    async def _admit(
        self, request: OpenSession, identity: str, max_length: int, stream: AttachedStream
    ) -> Session:
        wait = min(request.wait_millis, self._limits.max_open_wait_millis) / 1000
        return await self._admission.open(identity, max_length, stream, wait)

    async def _fork(
        self, request: OpenSession, identity: str, max_length: int, stream: AttachedStream
    ) -> Session:
        source = self._source(request, identity)
        if not 0 < request.fork.length <= source.length:
            await self._steps_done(source)  # what is under way counts
        await self._stable_length(request, source, max_length)
        session = await self._admit(request, identity, max_length, stream)
        try:
            # again, since it may have waited for room meanwhile
            length = await self._stable_length(request, source, max_length)
            session.length = session.sent_length = length
            if session not in self._sessions:  # evicted meanwhile: nobody would free its cache
                raise session_gone()
        except BaseException:
            self._sessions.close(session)
            raise
        self._engine.fork(source.id, session.id, session.length)
        self._sessions.touch(source)
        return session

    async def _stable_length(self, request: OpenSession, source: Session, max_length: int) -> int:
        """The tokens that a fork begins with, once no step under way can remove them."""
        while True:
            if source not in self._sessions:
                raise session_gone()
            length = self._fork_length(request, source, max_length)
            if all(position >= length for position in source.under_way.values()):
                return length
            await self._steps_done(source)

    def _source(self, request: OpenSession, identity: str) -> Session:
        if len(request.fork.session_id) != ID_BYTES:
            raise ServiceError(
                ErrorReason.ERROR_REASON_NO_FORK_SOURCE,
                f"fork.session_id has {len(request.fork.session_id)} bytes, not {ID_BYTES}",
                field="open.fork.session_id",
            )
        source = self._sessions.find(request.fork.session_id, identity)
        self._sessions.touch(source)  # it must not be evicted for its own fork
        return source

    @staticmethod
    def _fork_length(request: OpenSession, source: Session, max_length: int) -> int:
        length = request.fork.length or source.length
        if length > source.length:
            raise ServiceError(
                ErrorReason.ERROR_REASON_POSITION_BEYOND_END,
                f"a fork of {length} tokens; the session holds {source.length}",
                field="open.fork.length",
            )
        if length > max_length:
            raise ServiceError(
                ErrorReason.ERROR_REASON_CONTEXT_OVERFLOW,
                f"a fork of {length} tokens into a session of at most {max_length}",
                field="open.max_length",
            )
        return length

    async def _steps_done(self, session: Session) -> None:
        """Wait until the steps under way now are computed or cancelled. Raises ServiceError."""
        done = asyncio.Event()
        session.when_done(done.set)
        await done.wait()
        if session not in self._sessions:
            raise session_gone()

    def _max_length(self, request: OpenSession) -> int:
        if request.max_length > self._limits.max_length:
            raise ServiceError(
                ErrorReason.ERROR_REASON_CONTEXT_OVERFLOW,
                f"a session of {request.max_length} tokens; at most {self._limits.max_length}",
                field="open.max_length",
            )
        return request.max_length or self._limits.default_length

    def _check_bundle(self, request: OpenSession) -> None:
        manifest = self._engine.manifest
        head = request.head or Head.HEAD_SERVER
        if head != manifest.head:
            raise ServiceError(
                ErrorReason.ERROR_REASON_WRONG_HEAD,
                f"the client's bundle has head {head_name(head)}, this model has head "
                f"{head_name(manifest.head)}: the bundles come from different conversions",
                field="open.head",
            )
        if request.key_id != manifest.key_id:
            raise ServiceError(
                ErrorReason.ERROR_REASON_WRONG_KEY,
                f"the client's key_id {_shown(request.key_id)} is not this model's "
                f"{manifest.key_id!r}",
                field="open.key_id",
            )
        if request.bundle_id != manifest.bundle_id:
            raise ServiceError(
                ErrorReason.ERROR_REASON_WRONG_BUNDLE,
                f"the client's bundle_id {_shown(request.bundle_id)} is not this server's "
                f"{manifest.bundle_id!r}: the bundles come from different conversions",
                field="open.bundle_id",
            )


def _shown(text: str) -> str:
    """A caller's text, short enough for a status."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
