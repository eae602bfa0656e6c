"""A session that outlives its connection, with the I/O that both clients share.

A broken stream is resumed. If the session or its server is lost, another session is opened in its
place, on the next server of the client's list, and is sent the tokens that came before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from time import monotonic
from typing import TypeVar

from stip.v1.errors_pb2 import ErrorReason
from stip_client.errors import (
    ClientError,
    ConnectionLostError,
    RequestError,
    ServerBusyError,
    SessionLostError,
    WrongKeyError,
    reason_name,
)
from stip_client.session.forward_call import ForwardCall, ForwardResult, LogitsForm
from stip_client.session.generation import Generation, Piece
from stip_client.session.session_core import CLOSE_REQUEST, SessionCore
from stip_client.transport.backoff import Backoff
from stip_client.transport.endpoint import CLOSE_TIMEOUT, Endpoint
from stip_client.transport.interface import Stream, Transport
from stip_client.transport.targets import Targets

T = TypeVar("T")

# Reasons for which a fork's source does not hold its tokens: it is being restored itself.
SOURCE_LOST = (
    reason_name(ErrorReason.ERROR_REASON_POSITION_BEYOND_END),
    reason_name(ErrorReason.ERROR_REASON_NO_FORK_SOURCE),
)
DRAINING = reason_name(ErrorReason.ERROR_REASON_DRAINING)
# Reasons for which another stream holds the session: it is left to that stream.
HELD_ELSEWHERE = (
    reason_name(ErrorReason.ERROR_REASON_TAKEN_OVER),
    reason_name(ErrorReason.ERROR_REASON_CANCELLED),
)

log = logging.getLogger(__name__)


class RecoveringSession:
    """Opens a session, exchanges its steps and closes it, on at most one Infer call at a time.

    `core` is the session's state. `endpoint` is the server that the session is on, or a fork's
    source.
    """

    def __init__(
        self,
        core: SessionCore,
        endpoint: Endpoint | None,
        *,
        transport: Transport,
        targets: Targets,
        timeout: float,
        patience: float,
        on_close: Callable[[RecoveringSession], None],
    ) -> None:
        """timeout: seconds that one answer may take. patience: seconds for which a lost session is
        tried again."""
        self.core = core
        self.endpoint = endpoint
        self._transport = transport
        self._targets = targets
        self._timeout = timeout
        self._patience = patience
        self._on_close = on_close
        self._call: Stream | None = None
        self._settled = True  # every request on the call has been answered
        self._reachable = True
        self._closed = False

    async def open_new(self, wait: float) -> None:
        """Open the session for the first time, on the first server that takes it.

        wait: seconds that may pass until a server has room. Raises ClientError.
        """
        backoff, servers = Backoff(wait).begin(), len(self._targets)
        seconds = backoff.left if servers == 1 else 0.0  # another one may have room at once
        while True:
            try:
                await self._open_anywhere(seconds)
                return
            except (SessionLostError, ConnectionLostError, RequestError) as error:
                lost = not isinstance(error, RequestError) or error.reason in SOURCE_LOST
                if not (lost and self.core.is_fork) or self._patience <= 0:
                    raise
                self.core.forget_session()  # the tokens that could not be shared are sent
            except ServerBusyError as error:
                if error.retry_after is None:
                    raise
                pause = backoff.pause(error, elsewhere=seconds == 0.0)
                await self._transport.sleep(pause)
                seconds = backoff.left / servers

    async def open(self) -> None:
        """Resume the session after a broken stream; nothing if it is open."""

        async def nothing() -> None:
            pass

        await self._recovering(nothing)

    async def step(
        self, token_ids: Sequence[int], form: LogitsForm, *, echo: bool = False
    ) -> ForwardResult:
        """Add tokens to the session. Raises ClientError."""
        return await self._recovering(
            lambda: self._exchange(self.core.forward(token_ids, form, echo=echo))
        )

    async def advance(self, generation: Generation) -> list[Piece]:
        """The pieces that one step brings; none where the reply is finished."""
        core = self.core
        while (step := generation.next_step(core.position, core.max_length)) is not None:
            start = core.position
            result = await self.step(step.token_ids, step.form, echo=generation.echo)
            pieces, kept = generation.add_result(result)
            core.rollback(start + kept)
            if pieces:
                return pieces
        return []

    async def close(self) -> None:
        """End the session on the server, if the server can be reached within a short time."""
        try:
            if not self._settled:
                self._drop()
            if self._call is None and self._reachable:
                await self._resume_to_close()
            if (call := self._call) is not None:
                deadline = monotonic() + CLOSE_TIMEOUT
                await call.send(CLOSE_REQUEST, CLOSE_TIMEOUT)
                while True:  # unread results may come before the end
                    await call.receive(max(0.0, deadline - monotonic()))
        except ClientError:
            pass  # the stream has ended, or there is no session left to close
        finally:
            self._reachable, self._closed = False, True
            self._drop()
            self._on_close(self)

    # -- the stream ------------------------------------------------------------------------------

    async def _attach(self, endpoint: Endpoint, wait: float = 0.0) -> None:
        """Open or resume the session on a new call; nothing if it is open.

        The server then holds all its tokens. wait: seconds for which the server may look for room
        for a new session.
        """
        if self._closed:
            raise RequestError("the session is closed")
        if self._call is not None and self._settled:
            return
        self._drop()
        wait = 0.0 if self.core.session_id else wait
        call = self._transport.open_stream(endpoint)
        try:
            timeout = endpoint.connect_timeout
            await call.send(self.core.open_request(wait), timeout)
            self.core.accept_opened(await call.receive(timeout + wait))
        except BaseException:
            call.cancel()
            raise
        # not settled before the server holds every token
        self._settled = False
        self._call, self.endpoint, self._reachable = call, endpoint, True
        if self.core.held < self.core.position:
            await self._exchange(self.core.replay())
        self._settled = True

    async def _exchange(self, forward: ForwardCall) -> ForwardResult:
        """Send a forward call's steps and receive their results. Raises ClientError."""
        call, timeout = self._call, self._timeout
        assert call is not None  # attached
        self._settled = False
        try:
            requests = forward.requests()
            in_flight = 0
            for request in islice(requests, self.core.steps_in_flight):
                await call.send(request, timeout)
                in_flight += 1
            while in_flight:
                forward.add_response(await call.receive(timeout))
                in_flight -= 1
                for request in islice(requests, 1):
                    await call.send(request, timeout)
                    in_flight += 1
            if self.core.bundle.head is not None:
                await self._transport.compute(lambda: forward.logits)
            result = self.core.finish(forward)
        except ClientError as error:
            # a lost server and a lost session have nothing to close
            self._reachable = not isinstance(error, (ConnectionLostError, SessionLostError))
            self._drop()
            raise
        self._settled = True
        return result

    def _drop(self) -> None:
        """Give up the call, if there is one."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._settled = True

    async def _resume_to_close(self) -> None:
        if self.endpoint is None or not self.core.session_id:
            return
        call = self._transport.open_stream(self.endpoint)
        try:
            await call.send(self.core.open_request(), CLOSE_TIMEOUT)
            await call.receive(CLOSE_TIMEOUT)
        except BaseException:
            call.cancel()
            raise
        self._call = call

    # -- recovery --------------------------------------------------------------------------------

    async def _open_anywhere(self, wait: float) -> None:
        targets = self._targets
        for left in reversed(range(len(targets))):
            # a fork shares what its own server holds
            endpoint = self.endpoint if self.core.is_fork else None
            try:
                await self._attach(endpoint or targets.current, wait)
                return
            except (ConnectionLostError, ServerBusyError):
                if endpoint is not None or not left:
                    raise
                targets.leave(targets.current)
                self.core.forget_session()  # it may have been opened there before it was lost

    async def _recovering(self, action: Callable[[], Awaitable[T]]) -> T:
        """The result of an action on the open session, repeated while that may help."""
        backoff = Backoff(self._patience)
        while True:
            try:
                endpoint = self.endpoint if self.core.session_id else None
                await self._attach(endpoint or self._targets.current)
                return await action()
            except ClientError as error:
                seconds = self._recover(error, backoff)
            await self._transport.sleep(seconds)

    def _recover(self, error: ClientError, backoff: Backoff) -> float:
        """Prepare another attempt; the seconds to wait before it.

        Raises `error` if another attempt cannot help.
        """
        targets, endpoint = self._targets, self.endpoint
        if self._closed:
            raise error
        gone = isinstance(error, SessionLostError) and error.reason not in HELD_ELSEWHERE
        lost = isinstance(error, ConnectionLostError)
        # met while another was opened in place of a lost session
        unwilling = not self.core.session_id and (
            isinstance(error, ServerBusyError)
            or (isinstance(error, WrongKeyError) and len(targets) > 1)
        )
        if not (gone or lost or unwilling):
            raise error
        first = backoff.attempts == 0
        # the pause that a server asks for counts once every server has been tried
        untried = (backoff.attempts + 1) % len(targets) != 0
        seconds = backoff.pause(error, elsewhere=gone or untried)
        log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s; trying again for up to %.0f s",
            error,
            backoff.left,
        )
        if gone:
            self.core.forget_session()
            return 0.0 if first else seconds
        if lost and first and error.reason != DRAINING:
            return 0.0  # perhaps only the connection was lost, and the session can be resumed
        if len(targets) > 1:
            at = endpoint if self.core.session_id and endpoint is not None else targets.current
            targets.leave(at)
            if targets.current is not at:
                self.core.forget_session()
                return 0.0 if backoff.attempts <= len(targets) else seconds
        return seconds
