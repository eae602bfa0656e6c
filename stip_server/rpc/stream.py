"""One Infer call: a reader checks requests and queues their steps, a writer sends the answers.

A step that fails ends the stream with an error. Its session is parked, and keeps everything that
was computed before. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import InferRequest, InferResponse, Limits, SessionOpened
from stip_server.auth.callers import Caller
from stip_server.engine.engine import Engine
from stip_server.errors import ServiceError
from stip_server.observe.metrics import Metrics
from stip_server.rpc import translate
from stip_server.rpc.open_request import SessionOpener
from stip_server.rpc.step_queue import LastRequest, StepQueue
from stip_server.sessions.back_pressure.backlog import Backlog
from stip_server.sessions.session import Session
from stip_server.sessions.sessions import Sessions, session_gone
from stip_server.sessions.token_rate import TokenRate

# The next request, None for a message that could not be parsed. Raises EOFError after the last.
Receive = Callable[[], Awaitable[InferRequest | None]]
# Sends an InferResponse; returns when gRPC has room for the next one.
Send = Callable[[bytes], Awaitable[None]]
# Seconds in which a stream must send its first request.
OPEN_TIMEOUT = 10.0


@dataclass(frozen=True)
class StreamContext:
    """What all streams of a server share."""

    engine: Engine
    sessions: Sessions
    opener: SessionOpener
    limits: Limits
    rate: TokenRate
    metrics: Metrics


class Stream:
    """One Infer call of one caller, on the connection that gRPC names `peer`.

    It is an AttachedStream of its session.
    """

    def __init__(self, context: StreamContext, caller: Caller, peer: str) -> None:
        self._context = context
        self.caller = caller
        self.peer = peer
        self.session: Session | None = None  # from when it was opened, also after it was detached
        self.backlog: Backlog | None = None
        self._steps: StepQueue | None = None
        self._reader: asyncio.Task[None] | None = None
        # what ends the stream from outside
        self._interruption: asyncio.Future[ServiceError]
        self._interruption = asyncio.get_running_loop().create_future()
        self._is_throttled = False
        # whether the stream has no session, or has answered all that it will
        self.detached = asyncio.Event()
        self.detached.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer every request in order. Raises the ServiceError that ends the stream."""
        try:
            await self._open(receive)
            if self.session is not None:
                await self._answer_steps(self.session, receive, send)
        finally:
            if self._reader is not None:
                self._reader.cancel()
            if self.session is not None:
                self._detach(self.session)
            if self._steps is not None:
                self._steps.clear()
            if self.backlog is not None:
                self.backlog.clear()
            self.detached.set()

    @property
    def waits_for_server(self) -> bool:
        """Whether a step waits for the server, and not for its own client to read."""
        waits_for_others = self.backlog is not None and self.backlog.waits_for_others
        return self._is_throttled or waits_for_others

    def interrupt(self, error: ServiceError) -> None:
        """Read no further request; end with `error` once the steps sent so far are answered."""
        if not self._interruption.done():
            self._interruption.set_result(error)
        if self._steps is not None:
            self._steps.end(error)
        if self._reader is not None:
            self._reader.cancel()

    def abandon(self, error: ServiceError) -> None:
        """End with `error` now, and leave the steps under way unanswered.

        The session is detached at once: a client that does not read would keep it for ever.
        """
        self.interrupt(error)
        if self.session is not None:
            self._detach(self.session)
        if self._steps is not None:
            self._steps.fail(error)

    def taken_over(self, session: Session) -> None:
        """End, because another stream has resumed the session."""
        self.interrupt(
            ServiceError(
                ErrorReason.ERROR_REASON_TAKEN_OVER, "another stream has resumed this session"
            )
        )
        self._context.engine.cancel(session.id)

    def evicted(self, session: Session) -> None:
        """End, because the session was idle for long and its memory was needed."""
        del session
        self.interrupt(
            ServiceError(
                ErrorReason.ERROR_REASON_EVICTED, "the session was idle, and its memory was needed"
            )
        )

    async def _open(self, receive: Receive) -> None:
        """Open the session of the first request; none when the client closes without a request."""
        opening = asyncio.ensure_future(self._open_first(receive))
        waits: set[asyncio.Future[Any]] = {opening, self._interruption}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._interruption.done():
                raise self._interruption.result()
            opening.result()
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait({opening})
            if not opening.cancelled():
                opening.exception()  # else asyncio logs an error that nobody retrieves

    async def _open_first(self, receive: Receive) -> None:
        try:
            request = await asyncio.wait_for(receive(), OPEN_TIMEOUT)
        except EOFError:
            return
        except TimeoutError:
            raise ServiceError(
                ErrorReason.ERROR_REASON_OPEN_TIMEOUT,
                f"the stream was not opened within {OPEN_TIMEOUT:g} s",
            ) from None
        request = translate.parsed(request)
        if request.WhichOneof("request") != "open":
            raise ServiceError(
                ErrorReason.ERROR_REASON_NOT_OPEN,
                "the first request of a stream must be open",
                field="open",
            )
        self.session = await self._context.opener.open(request.open, self.caller.identity, self)
        self.detached.clear()

    async def _answer_steps(self, session: Session, receive: Receive, send: Send) -> None:
        context, limits = self._context, self._context.limits
        steps = self._steps = StepQueue(session, context.sessions, context.engine, context.metrics)
        backlog = self.backlog = Backlog(
            limits.max_steps_in_flight,
            limits.max_logits_bytes,
            context.sessions.answer_memory,
            session.unread,
        )
        session.known = True  # even where sending fails: it may have failed late
        await send(InferResponse(opened=self._opened(session)).SerializeToString())
        self._reader = asyncio.create_task(self._read(receive, session, steps, backlog))
        while isinstance(answer := await steps.next_answer(), bytes):
            backlog.sending()
            await send(answer)
            backlog.sent()
            context.sessions.touch(session)
            del answer  # the next one may be long in coming
        if answer is LastRequest.CLOSE:
            if session.stream is not self:  # taken over before the close had its turn
                raise self._interruption.result()
            context.sessions.close(session)

    def _opened(self, session: Session) -> SessionOpened:
        return SessionOpened(
            session_id=session.id,
            length=session.length,
            max_length=session.max_length,
            limits=self._context.limits,
        )

    def _detach(self, session: Session) -> None:
        if session.stream is self:
            self._context.engine.cancel(session.id)
            self._context.sessions.detach(session)

    async def _read(
        self, receive: Receive, session: Session, steps: StepQueue, backlog: Backlog
    ) -> None:
        # however reading ends, the writer must learn of it, or it would wait for ever
        end: LastRequest | ServiceError = ServiceError(
            ErrorReason.ERROR_REASON_READER_FAILED, "reading the stream failed"
        )
        try:
            while await self._accept(await receive(), session, steps, backlog):
                pass
            end = LastRequest.CLOSE
        except EOFError:
            end = LastRequest.HALF_CLOSE
        except ServiceError as error:
            end = error
        finally:
            steps.end(end)

    async def _accept(
        self, message: InferRequest | None, session: Session, steps: StepQueue, backlog: Backlog
    ) -> bool:
        """Submit the step of a request once it may be; return False for a close.

        This frame ends before the next request is awaited, so that it keeps no request in memory.
        """
        received = monotonic()
        request = translate.parsed(message)
        if request.WhichOneof("request") == "close":
            return False
        step = translate.step_request(
            request,
            self._context.engine.manifest,
            self._context.limits,
            sent_length=session.sent_length,
            max_length=session.max_length,
        )
        await self._throttle(len(step.hidden_states))
        await backlog.add(step.logits_bytes)
        if session.stream is not self:
            raise session_gone()  # the engine would begin a cache that nobody ever frees
        steps.submit(step, waited=monotonic() - received)
        return True

    async def _throttle(self, tokens: int) -> None:
        """Wait until the caller's token rate allows the tokens."""
        seconds = self._context.rate.charge(self.caller.identity, tokens)
        if seconds > 0:
            self._context.metrics.held_back_seconds.inc(seconds)
            self._is_throttled = True
            try:
                await asyncio.sleep(seconds)
            finally:
                self._is_throttled = False
