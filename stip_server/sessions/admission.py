"""Lets open requests wait for room. On the event loop's thread; knows no gRPC and no MLX."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from stip_server.errors import ServiceError
from stip_server.sessions.sessions import Holder, Session, Sessions

# Open requests that may wait at once. Those of one identity take half of what others leave.
MAX_WAITING = 256


@dataclass(eq=False)
class _Waiting:
    identity: str
    max_length: int
    holder: Holder
    session: asyncio.Future[Session]


class Admission:
    """Opens sessions at once, or when there is room within the time that the caller gives.

    Whenever a session ends, those that wait are tried in the order in which they came, before
    anyone who comes later; one that still does not fit holds up none behind it.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: deque[_Waiting] = deque()
        self._closed: ServiceError | None = None
        sessions.on_room = self._schedule

    def __len__(self) -> int:
        return len(self._waiting)

    async def open(self, identity: str, max_length: int, holder: Holder, wait: float) -> Session:
        """A new session, tried until there is room or `wait` seconds have passed.

        Raises the last ServiceError, at once where no waiting can help.
        """
        self.retry()
        try:
            return self._sessions.open(identity, max_length, holder)
        except ServiceError as error:
            if wait <= 0 or error.retry_after is None or not self._may_wait(identity):
                raise
        if self._closed is not None:
            raise self._closed
        waiting = _Waiting(identity, max_length, holder, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            # not wait_for: it may drop a cancellation that comes together with the session
            await asyncio.wait({waiting.session}, timeout=wait)
        except BaseException:
            self._give_back(waiting)
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if waiting.session.done():
            return waiting.session.result()
        return self._sessions.open(identity, max_length, holder)

    def close(self, error: ServiceError) -> None:
        """Fail all that wait, and whoever would."""
        self._closed = error
        for waiting in self._waiting:
            waiting.session.set_exception(error)
        self._waiting.clear()

    def retry(self) -> None:
        """Try all that wait: time has passed, and sessions may have become idle."""
        refused = set()
        for waiting in list(self._waiting):
            asked = (waiting.identity, waiting.max_length)
            if asked in refused:  # so was one that asked for the same
                continue
            try:
                session = self._sessions.open(*asked, waiting.holder)
            except ServiceError:
                refused.add(asked)
                continue
            self._waiting.remove(waiting)
            waiting.session.set_result(session)

    def _may_wait(self, identity: str) -> bool:
        """Whether one more of an identity may wait: none of them can take all places."""
        theirs = sum(waiting.identity == identity for waiting in self._waiting)
        return theirs < MAX_WAITING - len(self._waiting)

    def _schedule(self) -> None:
        # not within the call that ends a session, which may itself be about to open one
        if self._waiting:
            asyncio.get_running_loop().call_soon(self.retry)

    def _give_back(self, waiting: _Waiting) -> None:
        """The caller has gone: a session that it was given in this very moment is nobody's."""
        if waiting.session.done() and not waiting.session.exception():
            self._sessions.close(waiting.session.result())
