"""One Infer call: a reader that checks requests and queues their steps, a writer that answers them.

A step that fails ends the stream with an error; its session is parked and keeps all that was
computed before. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Any

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import InferRequest, InferResponse, Limits, SessionOpened
from stip.v1.inference_pb2 import Step as StepMessage
from stip_server.engine.engine import Engine
from stip_server.engine.step import Step, StepOutcome
from stip_server.errors import ServiceError
from stip_server.observe.metrics import Metrics
from stip_server.rpc import translate
from stip_server.rpc.open_request import Opening
from stip_server.sessions.back_pressure.backlog import Backlog
from stip_server.sessions.sessions import Session, Sessions, session_gone
from stip_server.sessions.token_rate import TokenRate

# The next request, None for a message that could not be parsed. Raises EOFError after the last.
Receive = Callable[[], Awaitable[InferRequest | None]]
# Sends an InferResponse; returns when gRPC has room for the next one.
Send = Callable[[bytes], Awaitable[None]]
# Seconds in which a stream must send its first request.
OPEN_TIMEOUT = 10.0


@dataclass(frozen=True)
class Backend:
    """What every stream of a server works with."""

    engine: Engine
    sessions: Sessions
    opening: Opening
    limits: Limits
    rate: TokenRate
    metrics: Metrics


class _End(Enum):
    """How the client has ended its requests."""

    CLOSED = "by closing the session"
    HALF_CLOSED = "by closing its side of the stream alone, which leaves the session to be resumed"


@dataclass
class _Pending:
    """A step on its way through the engine, and where its outcome will be."""

    message: StepMessage
    held: float  # seconds between its receipt and its submission
    outcome: asyncio.Future[StepOutcome]


class Stream:
    """One Infer call of one caller."""

    def __init__(self, backend: Backend, identity: str) -> None:
        self._engine = backend.engine
        self._sessions = backend.sessions
        self._opening = backend.opening
        self._limits = backend.limits
        self._rate = backend.rate
        self._metrics = backend.metrics
        self._identity = identity
        self._loop = asyncio.get_running_loop()
        self._backlog: Backlog | None = None
        # steps to answer in order, then what ends the stream
        self._answers: asyncio.Queue[_Pending | ServiceError | _End] = asyncio.Queue()
        self._outcomes: set[asyncio.Future[StepOutcome]] = set()
        self._reader: asyncio.Task[None] | None = None
        # what ends the stream from outside
        self._interruption: asyncio.Future[ServiceError] = self._loop.create_future()
        self.session: Session | None = None
        self._is_held_back = False  # by its identity's tokens a second
        # set whenever the stream holds no session
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer every request in order. Raises the ServiceError that ends the stream."""
        session = self.session = await self._open(receive)
        if session is None:
            return
        backlog = self._backlog = Backlog(
            self._limits.max_steps_in_flight,
            self._limits.max_logits_bytes,
            self._sessions.answer_memory,
            session.unread,
        )
        self.let_go.clear()
        try:
            opened = InferResponse(opened=self._opened(session)).SerializeToString()
            session.known = True  # even where sending fails: it may have failed late
            await send(opened)
            self._reader = asyncio.create_task(self._read(receive, session, backlog))
            while (answer := await self._next_answer(session)) is not None:
                backlog.sending()
                await send(answer)
                backlog.sent()
                self._sessions.used(session)
                del answer  # the next one may be long in coming
        finally:
            if self._reader is not None:
                self._reader.cancel()
            self._detach(session)
            while not self._answers.empty():
                self._answers.get_nowait()  # what they hold can be large
            backlog.clear()
            self.let_go.set()

    @property
    def lag(self) -> float:
        """Seconds by which the client lags behind in reading its answers."""
        return 0.0 if self._backlog is None else self._backlog.lag

    @property
    def waits_for_others(self) -> bool:
        """Whether a step is held up by other sessions' unread answers, its own being read."""
        return self._backlog is not None and self._backlog.waits_for_others

    @property
    def held_up(self) -> bool:
        """Whether a step waits for the server, and not for its own client to read."""
        return self._is_held_back or self.waits_for_others

    def interrupt(self, error: ServiceError) -> None:
        """Read no further request; end with `error` once the steps sent so far are answered."""
        if not self._interruption.done():
            self._interruption.set_result(error)
        self._answers.put_nowait(error)
        if self._reader is not None:
            self._reader.cancel()

    def abandon(self, error: ServiceError) -> None:
        """End with `error` now, whatever is under way.

        The session is let go of at once: a client that does not read would hold it for ever.
        """
        self.interrupt(error)
        if self.session is not None:
            self._detach(self.session)
        for outcome in list(self._outcomes):
            if not outcome.done():
                outcome.set_result(StepOutcome(error=error))

    def taken_over(self, session: Session) -> None:
        """End, because another stream has resumed the session."""
        self.interrupt(
            ServiceError(
                ErrorReason.ERROR_REASON_TAKEN_OVER, "another stream has resumed this session"
            )
        )
        self._engine.cancel(session.id)

    def evicted(self, session: Session) -> None:
        """End, because the session was idle for long and its room was needed."""
        del session
        self.interrupt(
            ServiceError(
                ErrorReason.ERROR_REASON_EVICTED, "the session was idle, and its room was needed"
            )
        )

    async def _open(self, receive: Receive) -> Session | None:
        """The session of the first request; None when the client closes without a request."""
        opening = asyncio.ensure_future(self._first_request(receive))
        session = None
        waits: set[asyncio.Future[Any]] = {opening, self._interruption}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._interruption.done():
                raise self._interruption.result()
            session = opening.result()
            return session
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait({opening})
            if session is None:
                self._park_unwanted(opening)

    def _detach(self, session: Session) -> None:
        if session.holder is self:
            self._engine.cancel(session.id)
            self._sessions.let_go(session)

    def _park_unwanted(self, opening: asyncio.Future[Session | None]) -> None:
        """Let go of a session that was opened in the moment in which the stream ended."""
        if opening.cancelled() or opening.exception() is not None:
            return
        session = opening.result()
        if session is not None and session.holder is self:
            self._sessions.let_go(session)

    async def _first_request(self, receive: Receive) -> Session | None:
        try:
            request = await asyncio.wait_for(receive(), OPEN_TIMEOUT)
        except EOFError:
            return None
        except TimeoutError:
            raise ServiceError(
                ErrorReason.ERROR_REASON_OPEN_TIMEOUT,
                f"the stream was not opened within {OPEN_TIMEOUT:g} s",
            ) from None
        request = _parsed(request)
        if request.WhichOneof("request") != "open":
            raise ServiceError(
                ErrorReason.ERROR_REASON_NOT_OPEN,
                "the first request of a stream must be open",
                field="open",
            )
        return await self._opening.open(request.open, self._identity, self)

    def _opened(self, session: Session) -> SessionOpened:
        return SessionOpened(
            session_id=session.id,
            length=session.length,
            max_length=session.max_length,
            limits=self._limits,
        )

    async def _read(self, receive: Receive, session: Session, backlog: Backlog) -> None:
        # the writer must learn of the end however it comes about, or it would wait for ever
        end: ServiceError | _End = ServiceError(
            ErrorReason.ERROR_REASON_READER_FAILED, "reading the stream failed"
        )
        try:
            while await self._take(await receive(), session, backlog):
                pass
            end = _End.CLOSED
        except EOFError:
            end = _End.HALF_CLOSED
        except ServiceError as error:
            end = error
        finally:
            self._answers.put_nowait(end)

    async def _take(self, message: InferRequest | None, session: Session, backlog: Backlog) -> bool:
        """Submit the step of a request, once there is room; False where the request is to close.

        A frame of its own: none that waits for the next request holds this one.
        """
        received = monotonic()
        request = _parsed(message)
        if request.WhichOneof("request") == "close":
            return False
        step = translate.step_request(
            request,
            self._engine.manifest,
            self._limits,
            end=session.end,
            max_length=session.max_length,
        )
        await self._hold_back(len(step.hidden_states))
        await backlog.add(step.logits_bytes)
        self._submit(step, session, held=monotonic() - received)
        return True

    async def _hold_back(self, tokens: int) -> None:
        seconds = self._rate.take(self._identity, tokens)
        if seconds > 0:
            self._metrics.held_back(seconds)
            self._is_held_back = True
            try:
                await asyncio.sleep(seconds)
            finally:
                self._is_held_back = False

    def _submit(self, request: translate.StepRequest, session: Session, held: float) -> None:
        if session.holder is not self:
            raise session_gone()  # the engine would begin a cache that nobody ever frees
        outcome: asyncio.Future[StepOutcome] = self._loop.create_future()

        def deliver(result: StepOutcome) -> None:
            # on the engine's thread
            self._loop.call_soon_threadsafe(self._delivered, session, number, outcome, result)

        position = request.message.position
        step = Step(
            session_id=session.id,
            position=position,
            hidden_states=request.hidden_states,
            form=request.form,
            deliver=deliver,
        )
        session.end = position + step.num_rows
        number = session.step_begun(position)
        self._outcomes.add(outcome)
        outcome.add_done_callback(self._outcomes.discard)
        self._engine.submit(step)
        self._answers.put_nowait(_Pending(request.message, held, outcome))

    def _delivered(
        self,
        session: Session,
        number: int,
        outcome: asyncio.Future[StepOutcome],
        result: StepOutcome,
    ) -> None:
        self._metrics.step_ended(result.error)
        if result.length is not None:
            session.length = result.length
        if result.error is not None and result.error.reason == ErrorReason.ERROR_REASON_CACHE_LOST:
            self._sessions.close(session, "failed")  # whoever resumes it must hear so
        self._sessions.used(session)
        session.step_done(number)
        if not outcome.done():
            outcome.set_result(result)

    async def _next_answer(self, session: Session) -> bytes | None:
        """The answer to the next step; None where the client has ended its requests.

        Only the bytes are left of it then: a client may take its time to read them.
        """
        pending = await self._answers.get()
        if isinstance(pending, ServiceError):
            raise pending
        if pending is _End.CLOSED:
            if session.holder is not self:  # taken over before the close had its turn
                raise self._interruption.result()
            self._sessions.close(session)
        if isinstance(pending, _End):
            return None
        result = await pending.outcome
        if result.error is not None:
            raise result.error
        queued = pending.held + result.queued
        self._metrics.step_answered(queue_seconds=queued, compute_seconds=result.computed)
        response = InferResponse(
            result=translate.step_result(
                pending.message,
                result.length or 0,
                result.logits,
                self._engine.manifest.head,
                queue=queued,
                compute=result.computed,
            )
        )
        return response.SerializeToString()


def _parsed(request: InferRequest | None) -> InferRequest:
    if request is None:
        raise ServiceError(
            ErrorReason.ERROR_REASON_MALFORMED, "the message is not a stip.v1.InferRequest"
        )
    return request
