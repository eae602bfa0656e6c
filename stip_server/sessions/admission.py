"""Lets open requests wait for room. Runs on the event loop; knows no gRPC and no MLX."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from stip_server.errors import ServiceError
from stip_server.sessions.session import AttachedStream, Session
from stip_server.sessions.sessions import Sessions

# Open requests that may wait at once. Those of one identity take half of what others leave.
MAX_WAITING = 256


@dataclass(eq=False)
class _WaitingOpen:
    identity: str
    max_length: int
    stream: AttachedStream
    session: asyncio.Future[Session]


class Admission:
    """Opens sessions at once, or when there is room within the time that the caller gives.

    Whenever a session ends, waiting requests are tried in the order in which they came, before any
    later request. A request that does not fit yet does not delay those behind it.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._waiting: deque[_WaitingOpen] = deque()
        self._closed: ServiceError | None = None
        sessions.on_room_freed = self._schedule_retry

    def __len__(self) -> int:
        return len(self._waiting)

    async def open(
        self, identity: str, max_length: int, stream: AttachedStream, wait: float
    ) -> Session:
        """A new session, as soon as there is room, within `wait` seconds.

        Raises the last ServiceError of Sessions.open; at once where waiting cannot help.
        """
        self.retry()
        try:
            return self._sessions.open(identity, max_length, stream)
        except ServiceError as error:
            if wait <= 0 or error.retry_after is None or not self._may_wait(identity):
                raise
        if self._closed is not None:
            raise self._closed
        future: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        waiting = _WaitingOpen(identity, max_length, stream, future)
        self._waiting.append(waiting)
        try:
            # not wait_for: it can drop a cancellation that comes together with the session
            await asyncio.wait({future}, timeout=wait)
        except BaseException:
            if future.done() and not future.exception():
                self._sessions.close(future.result())  # the caller has gone: nobody wants it
            raise
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if future.done():
            return future.result()
        return self._sessions.open(identity, max_length, stream)

    def close(self, error: ServiceError) -> None:
        """Fail all waiting requests, and later ones that would have to wait."""
        self._closed = error
        for waiting in self._waiting:
            waiting.session.set_exception(error)
        self._waiting.clear()

    def retry(self) -> None:
        """Try all waiting requests: sessions may have become idle as time passed."""
        refused = set()
        for waiting in list(self._waiting):
            wanted = (waiting.identity, waiting.max_length)
            if wanted in refused:
                continue
            try:
                session = self._sessions.open(*wanted, waiting.stream)
            except ServiceError:
                refused.add(wanted)
                continue
            self._waiting.remove(waiting)
            waiting.session.set_result(session)

    def _may_wait(self, identity: str) -> bool:
        """Whether one more request of an identity may wait: no identity can take all places."""
        theirs = sum(waiting.identity == identity for waiting in self._waiting)
        return theirs < MAX_WAITING - len(self._waiting)

    def _schedule_retry(self) -> None:
        # not at once: the caller that ends a session may be about to open one itself
        if self._waiting:
            asyncio.get_running_loop().call_soon(self.retry)
