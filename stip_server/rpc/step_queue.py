"""The steps of one stream on their way through the engine, and their answers, in order.

Runs on the event loop's thread, except that the engine delivers outcomes from its own.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import NamedTuple

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import InferResponse
from stip_server.engine.engine import Engine
from stip_server.engine.step import Step, StepOutcome
from stip_server.errors import ServiceError
from stip_server.observe.metrics import Metrics
from stip_server.rpc import translate
from stip_server.sessions.session import Session
from stip_server.sessions.sessions import Sessions


class LastRequest(Enum):
    """How the client has ended its requests."""

    CLOSE = "the session is to be closed"
    HALF_CLOSE = "the client has closed its side of the stream, and may resume the session"


class _UnansweredStep(NamedTuple):
    request: translate.StepRequest
    waited: float  # seconds between its receipt and its submission
    outcome: asyncio.Future[StepOutcome]


class StepQueue:
    """Submits the steps of one stream to the engine, and returns their answers in order.

    Behind the last step stands what ends the stream: the client's last request, or an error.
    """

    def __init__(
        self, session: Session, sessions: Sessions, engine: Engine, metrics: Metrics
    ) -> None:
        self._session = session
        self._sessions = sessions
        self._engine = engine
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._entries: asyncio.Queue[_UnansweredStep | LastRequest | ServiceError] = asyncio.Queue()
        self._outcomes: set[asyncio.Future[StepOutcome]] = set()

    def submit(self, request: translate.StepRequest, *, waited: float) -> None:
        """Give a step to the engine, `waited` seconds after its receipt."""
        session = self._session
        outcome: asyncio.Future[StepOutcome] = self._loop.create_future()
        number = session.step_begun(request.position)

        def deliver(result: StepOutcome) -> None:
            # on the engine's thread
            self._loop.call_soon_threadsafe(self._delivered, number, outcome, result)

        session.sent_length = request.position + len(request.hidden_states)
        self._outcomes.add(outcome)
        outcome.add_done_callback(self._outcomes.discard)
        step = Step(session.id, request.position, request.hidden_states, request.form, deliver)
        self._engine.submit(step)
        self._entries.put_nowait(_UnansweredStep(request, waited, outcome))

    def end(self, end: LastRequest | ServiceError) -> None:
        """End the stream once the steps submitted so far are answered."""
        self._entries.put_nowait(end)

    def fail(self, error: ServiceError) -> None:
        """Answer the steps under way with an error, whatever becomes of them."""
        for outcome in list(self._outcomes):
            if not outcome.done():
                outcome.set_result(StepOutcome(error=error))

    def clear(self) -> None:
        """Forget the steps of a stream that has ended: they can be large."""
        while not self._entries.empty():
            self._entries.get_nowait()

    async def next_answer(self) -> bytes | LastRequest:
        """The serialized InferResponse to the next step, or the client's last request.

        Raises the ServiceError that ends the stream. Only bytes are left of a step here, since the
        client may read them slowly.
        """
        entry = await self._entries.get()
        if isinstance(entry, ServiceError):
            raise entry
        if isinstance(entry, LastRequest):
            return entry
        outcome = await entry.outcome
        if outcome.error is not None:
            raise outcome.error
        waited = entry.waited + outcome.queued
        self._metrics.step_answered(queue_seconds=waited, compute_seconds=outcome.computed)
        head = self._engine.manifest.head
        result = translate.step_result(entry.request, outcome, head, waited=waited)
        return InferResponse(result=result).SerializeToString()

    def _delivered(
        self, number: int, outcome: asyncio.Future[StepOutcome], result: StepOutcome
    ) -> None:
        session = self._session
        self._metrics.step_ended(result.error)
        if result.length is not None:
            session.length = result.length
        if result.error is not None and result.error.reason == ErrorReason.ERROR_REASON_CACHE_LOST:
            self._sessions.close(session, "failed")  # it cannot be resumed
        self._sessions.touch(session)
        session.step_done(number)
        if not outcome.done():
            outcome.set_result(result)
