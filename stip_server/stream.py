"""One Infer call: a reader that checks requests and queues their steps, a writer that answers them.

A step that fails ends the stream with an error; its session is parked and keeps all that was
computed before. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

import grpc

from stip.v1.inference_pb2 import (
    InferRequest,
    InferResponse,
    Limits,
    OpenSession,
    SessionOpened,
)
from stip.v1.inference_pb2 import Step as StepMessage
from stip_server import translate
from stip_server.engine import Engine
from stip_server.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    OutOfRange,
    ServiceError,
)
from stip_server.sessions import Session, Sessions, session_gone
from stip_server.steps import Step, StepOutcome

# None stands for a message that could not be parsed.
Requests = AsyncIterator[InferRequest | None]


class _End(Enum):
    """How the client has ended its requests."""

    CLOSED = "by closing the session"
    HALF_CLOSED = "by closing its side of the stream alone, which leaves the session to be resumed"


@dataclass(frozen=True)
class _Pending:
    """A step that the engine has, and where its outcome will be."""

    message: StepMessage
    step: Step
    outcome: asyncio.Future[StepOutcome]


class Stream:
    """One Infer call."""

    def __init__(self, engine: Engine, sessions: Sessions, limits: Limits) -> None:
        self._engine = engine
        self._sessions = sessions
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(limits.max_steps_in_flight)
        # steps to answer in order, then what ends the stream
        self._answers: asyncio.Queue[_Pending | ServiceError | _End] = asyncio.Queue()
        self._outcomes: set[asyncio.Future[StepOutcome]] = set()
        self._reader: asyncio.Task[None] | None = None
        # set whenever the stream holds no session
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def run(self, requests: Requests) -> AsyncGenerator[InferResponse, None]:
        """Answer every request in order. Raises the ServiceError that ends the stream."""
        session = await self._open(requests)
        if session is None:
            return
        self.let_go.clear()
        try:
            yield InferResponse(opened=await self._opened(session))
            self._reader = asyncio.create_task(self._read(requests, session))
            while not isinstance(answer := await self._answers.get(), _End):
                if isinstance(answer, ServiceError):
                    raise answer
                yield await self._answer(answer)
                self._slots.release()
            if answer is _End.CLOSED:
                self._sessions.close(session)
        except ServiceError as error:
            if error.code is grpc.StatusCode.INTERNAL:
                self._sessions.close(session)
            raise
        finally:
            if self._reader is not None:
                self._reader.cancel()
            if session.holder is self:
                self._engine.cancel(session.id)
                self._sessions.park(session)
            self.let_go.set()

    def interrupt(self, error: ServiceError) -> None:
        """Read no further request; end with `error` once the steps sent so far are answered."""
        self._answers.put_nowait(error)
        if self._reader is not None:
            self._reader.cancel()

    def abandon(self, error: ServiceError) -> None:
        """End with `error` now, whatever is under way."""
        for outcome in list(self._outcomes):
            if not outcome.done():
                outcome.set_result(StepOutcome(perf_counter(), 0.0, error=error))

    def taken_over(self, session: Session) -> None:
        """End, because another stream has resumed the session."""
        self.interrupt(Aborted("TAKEN_OVER", "another stream has resumed this session"))
        self._engine.cancel(session.id)

    async def _open(self, requests: Requests) -> Session | None:
        """The session of the first request; None when the client closes without a request."""
        async for request in requests:
            if _parsed(request).WhichOneof("request") != "open":
                raise FailedPrecondition(
                    "NOT_OPEN", "the first request of a stream must be open", field="open"
                )
            return self._open_session(_parsed(request).open)
        return None

    def _open_session(self, request: OpenSession) -> Session:
        manifest = self._engine.manifest
        if request.key_id != manifest.key_id:
            raise FailedPrecondition(
                "WRONG_KEY",
                f"the client's key_id {request.key_id!r} is not this model's {manifest.key_id!r}",
                field="open.key_id",
            )
        if request.bundle_id != manifest.bundle_id:
            raise FailedPrecondition(
                "WRONG_BUNDLE",
                f"the client's bundle_id {request.bundle_id!r} is not this server's "
                f"{manifest.bundle_id!r}: the bundles come from different conversions",
                field="open.bundle_id",
            )
        if request.resume_session_id:
            session = self._sessions.resume(request.resume_session_id)
            session.holder = self
            return session
        if request.max_length > self._limits.max_length:
            raise OutOfRange(
                "CONTEXT_OVERFLOW",
                f"a session of {request.max_length} tokens; at most {self._limits.max_length}",
                field="open.max_length",
            )
        session = self._sessions.open(request.max_length or self._limits.max_length)
        session.holder = self
        return session

    async def _opened(self, session: Session) -> SessionOpened:
        if session.outstanding:
            # a step of the stream that held the session before is under way, and counts
            idle = asyncio.Event()
            session.when_idle.append(idle.set)
            await idle.wait()
            if session not in self._sessions:
                raise session_gone()
        session.end = session.length
        return SessionOpened(
            session_id=session.id,
            length=session.length,
            max_length=session.max_length,
            limits=self._limits,
        )

    async def _read(self, requests: Requests, session: Session) -> None:
        # the writer must learn of the end however it comes about, or it would wait for ever
        end: ServiceError | _End = Internal("READER_FAILED", "reading the stream failed")
        try:
            async for message in requests:
                request = _parsed(message)
                if request.WhichOneof("request") == "close":
                    end = _End.CLOSED
                    return
                await self._slots.acquire()
                self._answers.put_nowait(self._submit(request, session))
            end = _End.HALF_CLOSED
        except ServiceError as error:
            end = error
        finally:
            self._answers.put_nowait(end)

    def _submit(self, request: InferRequest, session: Session) -> _Pending:
        message = request.step
        if request.WhichOneof("request") != "step":
            raise FailedPrecondition(
                "NOT_A_STEP", "after open, a request must be a step or close", field="open"
            )
        model, limits = self._engine.manifest.model, self._limits
        hidden_states = translate.hidden_states(message.hidden_states, model.hidden_size, limits)
        rows, half_precision, top_k = translate.logits_request(
            message.logits, len(hidden_states), model.vocab_size, limits
        )
        if message.echo and not limits.echo_allowed:
            raise FailedPrecondition(
                "ECHO_NOT_ALLOWED", "this server does not echo (--allow-echo)", field="step.echo"
            )
        end = message.position + len(hidden_states)
        if message.position > session.end:
            raise OutOfRange(
                "POSITION_BEYOND_END",
                f"position {message.position} is beyond the session's {session.end} tokens",
                field="step.position",
            )
        if end > session.max_length:
            raise OutOfRange(
                "CONTEXT_OVERFLOW",
                f"{end} tokens are beyond the session's maximum of {session.max_length}",
                field="step.hidden_states",
            )
        outcome: asyncio.Future[StepOutcome] = self._loop.create_future()
        self._outcomes.add(outcome)
        outcome.add_done_callback(self._outcomes.discard)

        def deliver(result: StepOutcome) -> None:
            # on the engine's thread
            self._loop.call_soon_threadsafe(self._delivered, session, step, outcome, result)

        step = Step(
            session_id=session.id,
            position=message.position,
            hidden_states=hidden_states,
            rows=rows,
            half_precision=half_precision,
            top_k=top_k,
            submitted=perf_counter(),
            deliver=deliver,
        )
        session.end = end
        session.outstanding += 1
        self._engine.submit(step)
        return _Pending(message, step, outcome)

    def _delivered(
        self,
        session: Session,
        step: Step,
        outcome: asyncio.Future[StepOutcome],
        result: StepOutcome,
    ) -> None:
        if result.error is None:
            session.length = step.position + step.num_rows
        elif isinstance(result.error, Internal):
            self._sessions.close(session)  # its cache is gone; whoever resumes it must hear so
        session.step_done()
        if not outcome.done():
            outcome.set_result(result)

    @staticmethod
    async def _answer(pending: _Pending) -> InferResponse:
        result = await pending.outcome
        if result.error is not None:
            raise result.error
        step = pending.step
        return InferResponse(
            result=translate.step_result(
                pending.message,
                step.position + step.num_rows,
                result.logits,
                queue=result.started - step.submitted,
                compute=result.seconds,
            )
        )


def _parsed(request: InferRequest | None) -> InferRequest:
    if request is None:
        raise InvalidArgument("MALFORMED", "the message is not a stip.v1.InferRequest")
    return request
