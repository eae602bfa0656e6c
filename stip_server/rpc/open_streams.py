"""The Infer calls under way: how many there may be, and what ends them from outside."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from stip.v1.errors_pb2 import ErrorReason
from stip_server.auth.callers import Authenticator, Caller
from stip_server.errors import ServiceError
from stip_server.observe.logs import event
from stip_server.rpc.stream import Stream, StreamContext
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.connections import cut_off

log = logging.getLogger(__name__)

# Streams at once, with and without a session.
MAX_STREAMS = 4096
# Seconds by which a client may lag behind in reading while others wait for the memory it takes.
READ_TIMEOUT = 20.0


class OpenStreams:
    """All streams of a server. Runs on the event loop's thread."""

    def __init__(
        self,
        context: StreamContext,
        admission: Admission,
        authenticator: Authenticator,
        *,
        max_connections: int,
    ) -> None:
        self._context = context
        self._admission = admission
        self._authenticator = authenticator
        self._max_connections = max_connections
        self._streams: set[Stream] = set()
        # why no stream is served at present
        self._unavailable: ServiceError | None = None

    def add(self, caller: Caller, peer: str) -> Stream:
        """A new stream. Raises ServiceError where the server takes none."""
        if self._unavailable is not None:
            raise self._unavailable
        peers = Counter(each.peer for each in self._streams)
        if peer not in peers and len(peers) >= self._max_connections:
            raise ServiceError(
                ErrorReason.ERROR_REASON_TOO_MANY_CONNECTIONS,
                f"{self._max_connections} connections have streams already",
                retry_after=1.0,
            )
        if len(self._streams) >= MAX_STREAMS:
            raise ServiceError(
                ErrorReason.ERROR_REASON_TOO_MANY_STREAMS,
                f"{MAX_STREAMS} streams are open already",
                retry_after=1.0,
            )
        opened = Stream(self._context, caller, peer)
        self._streams.add(opened)
        return opened

    def remove(self, ended: Stream) -> None:
        """Forget a stream that has ended."""
        self._streams.discard(ended)

    def peers_with_sessions(self) -> set[str]:
        """The connections with a stream that has a session."""
        return {each.peer for each in self._streams if not each.detached.is_set()}

    async def drain(self) -> None:
        """Refuse new streams; end each running one once the steps it has read are answered.

        Returns when no stream has a session.
        """
        self._unavailable = _draining_error()
        self._admission.close(self._unavailable)
        for each in self._streams:
            each.interrupt(self._unavailable)
        await asyncio.gather(*(each.detached.wait() for each in self._streams))

    def abandon(self) -> None:
        """End every stream at once, and leave the steps under way unanswered."""
        for each in self._streams:
            each.abandon(_draining_error())

    def engine_failed(self, error: ServiceError) -> None:
        """End every stream with `error`, and refuse new ones until the engine has recovered."""
        if not self._is_draining:
            self._unavailable = error
        for each in self._streams:
            each.abandon(error)

    def engine_recovered(self) -> bool:
        """Take streams again, unless the server is draining; return whether they are taken."""
        if not self._is_draining:
            self._unavailable = None
        return self._unavailable is None

    def tokens_changed(self) -> None:
        """End the streams of revoked tokens, and the sessions that nobody can resume any more."""
        for each in self._streams:
            if not self._authenticator.still_valid(each.caller):
                revoked = ServiceError(
                    ErrorReason.ERROR_REASON_TOKEN_REVOKED, "the token no longer counts"
                )
                each.abandon(revoked)
        self._context.sessions.close_parked(self._authenticator.is_gone)

    def cut_off_slow_readers(self) -> None:
        """End the connections of clients that do not read, where others need the memory."""
        backlogs = [(each.peer, each.backlog) for each in self._streams if each.backlog is not None]
        is_needed = any(backlog.waits_for_others for _, backlog in backlogs)
        if not (is_needed or self._context.sessions.answer_memory.overdrawn):
            return
        for peer in {peer for peer, backlog in backlogs if backlog.lag > READ_TIMEOUT}:
            if cut_off(peer):
                self._context.metrics.connections_cut_off.inc()
                event(log, logging.WARNING, "a client that does not read was cut off", peer=peer)

    @property
    def _is_draining(self) -> bool:
        error = self._unavailable
        return error is not None and error.reason == ErrorReason.ERROR_REASON_DRAINING


def _draining_error() -> ServiceError:
    return ServiceError(ErrorReason.ERROR_REASON_DRAINING, "the server is shutting down")
