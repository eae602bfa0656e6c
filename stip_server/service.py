"""The gRPC service: translates between messages and the engine, and errors to statuses.

Each stream has a reader, which checks requests and queues their steps, and a writer, which answers
them in order. A step that fails ends the stream with a status; its session is parked and keeps all
that was computed before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import grpc

from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
    Limits,
    OpenSession,
    SessionOpened,
)
from stip.v1.inference_pb2 import Step as StepMessage
from stip.v1.inference_pb2_grpc import InferenceServiceServicer
from stip_server import __version__, translate
from stip_server.engine import Engine
from stip_server.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    OutOfRange,
    ServiceError,
    Unavailable,
)
from stip_server.loader import wire_dtype
from stip_server.sessions import Session, Sessions
from stip_server.status import to_grpc_status
from stip_server.steps import Step, StepOutcome

log = logging.getLogger(__name__)


class InferenceService(InferenceServiceServicer):
    """Serves one engine. All of it runs on the event loop's thread."""

    def __init__(self, engine: Engine, sessions: Sessions, limits: Limits) -> None:
        self._engine = engine
        self._sessions = sessions
        self._limits = limits
        self._streams: set[_Stream] = set()
        self._draining = False

    async def GetModelInfo(  # noqa: N802 - the name in the .proto file
        self, request: GetModelInfoRequest, context: Any
    ) -> GetModelInfoResponse:
        """What is served, and within which limits."""
        del request, context
        manifest = self._engine.manifest
        return GetModelInfoResponse(
            model=manifest.model,
            scheme=manifest.scheme,
            key_id=manifest.key_id,
            bundle_id=manifest.bundle_id,
            dtype=manifest.dtype,
            compute_dtype=wire_dtype(self._engine.dtype),
            limits=self._limits,
            server_version=__version__,
        )

    async def Infer(  # noqa: N802 - the name in the .proto file
        self, request_iterator: AsyncIterator[InferRequest], context: Any
    ) -> AsyncIterator[InferResponse]:
        """One stream, which is one session."""
        stream = _Stream(self._engine, self._sessions, self._limits)
        try:
            if self._draining:
                raise _draining_error()
            self._streams.add(stream)
            async with aclosing(stream.run(request_iterator)) as responses:
                async for response in responses:
                    yield response
        except ServiceError as error:
            if error.code is grpc.StatusCode.INTERNAL:
                log.error("a session ended with %s", error)
            await context.abort_with_status(to_grpc_status(error))
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Refuse new streams; end each running one once the steps it has sent are answered."""
        self._draining = True
        for stream in self._streams:
            stream.interrupt(_draining_error())


@dataclass(frozen=True)
class _Pending:
    """A step that the engine has, and where its outcome will be."""

    message: StepMessage
    step: Step
    outcome: asyncio.Future[StepOutcome]


class _Stream:
    """One Infer call."""

    def __init__(self, engine: Engine, sessions: Sessions, limits: Limits) -> None:
        self._engine = engine
        self._sessions = sessions
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(limits.max_steps_in_flight)
        # steps to answer in order; then None at the end of the requests, or the error that ends it
        self._answers: asyncio.Queue[_Pending | ServiceError | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def run(
        self, requests: AsyncIterator[InferRequest]
    ) -> AsyncGenerator[InferResponse, None]:
        """Answer every request in order. Raises the ServiceError that ends the stream."""
        session = await self._open(requests)
        if session is None:
            return
        opened = SessionOpened(
            session_id=session.id,
            length=session.length,
            max_length=session.max_length,
            limits=self._limits,
        )
        self._reader = asyncio.create_task(self._read(requests, session))
        try:
            yield InferResponse(opened=opened)
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, ServiceError):
                    raise answer
                yield await self._answer(answer)
                self._slots.release()
        except ServiceError as error:
            if error.code is grpc.StatusCode.INTERNAL:
                self._sessions.close(session)
            raise
        else:
            # the client has closed its side, and every step is answered
            self._sessions.close(session)
        finally:
            self._reader.cancel()
            if session.holder is self:
                self._engine.cancel(session.id)
                self._sessions.park(session)

    def interrupt(self, error: ServiceError) -> None:
        """Read no further request; end with `error` once the steps sent so far are answered."""
        self._answers.put_nowait(error)
        if self._reader is not None:
            self._reader.cancel()

    def taken_over(self, session: Session) -> None:
        """End, because another stream has resumed the session."""
        self.interrupt(Aborted("TAKEN_OVER", "another stream has resumed this session"))
        self._engine.cancel(session.id)

    async def _open(self, requests: AsyncIterator[InferRequest]) -> Session | None:
        """The session of the first request; None when the client closes without a request."""
        async for request in requests:
            if request.WhichOneof("request") != "open":
                raise FailedPrecondition(
                    "NOT_OPEN", "the first request of a stream must be open", field="open"
                )
            session = self._open_session(request.open)
            session.holder = self
            return session
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
            return self._sessions.resume(request.resume_session_id)
        if request.max_length > self._limits.max_length:
            raise OutOfRange(
                "CONTEXT_OVERFLOW",
                f"a session of {request.max_length} tokens; at most {self._limits.max_length}",
                field="open.max_length",
            )
        return self._sessions.open(request.max_length or self._limits.max_length)

    async def _read(self, requests: AsyncIterator[InferRequest], session: Session) -> None:
        # the writer must learn of the end however it comes about, or it would wait for ever
        end: ServiceError | None = Internal("READER_FAILED", "reading the stream failed")
        try:
            async for request in requests:
                await self._slots.acquire()
                self._answers.put_nowait(self._submit(request, session))
            end = None
        except ServiceError as error:
            end = error
        finally:
            self._answers.put_nowait(end)

    def _submit(self, request: InferRequest, session: Session) -> _Pending:
        message = request.step
        if request.WhichOneof("request") != "step":
            raise FailedPrecondition(
                "ALREADY_OPEN", "after open, every request must be a step", field="step"
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

        def deliver(result: StepOutcome) -> None:
            # on the engine's thread; the loop may be closed when the server is killed
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
        self._engine.submit(step)
        return _Pending(message, step, outcome)

    @staticmethod
    def _delivered(
        session: Session, step: Step, outcome: asyncio.Future[StepOutcome], result: StepOutcome
    ) -> None:
        if result.error is None:
            session.length = step.position + step.num_rows
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


def _draining_error() -> Unavailable:
    return Unavailable("DRAINING", "the server is shutting down")
