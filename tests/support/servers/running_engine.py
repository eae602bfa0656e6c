"""A real engine of a tiny bundle that a test can watch, stop and make fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from stip_client.bundle.client_bundle import ClientBundle
from stip_model.bundle.manifest import ServerBundle
from stip_server.engine import engine as engine_module
from stip_server.engine import loaded_model
from stip_server.engine.engine import Engine
from stip_server.engine.step import LogitsForm, Step, StepOutcome, WantedRows
from stip_server.observe.metrics import Metrics
from stip_server.settings import EngineSettings
from tests.support.waiting import PATIENCE


class Gate:
    """A place where the engine's thread stops while the gate is closed."""

    def __init__(self) -> None:
        self._open = Event()
        self._arrived = Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()
        self._arrived.clear()

    def open(self) -> None:
        self._open.set()

    def await_arrival(self) -> None:
        """Wait until the engine stands at the closed gate."""
        assert self._arrived.wait(PATIENCE)

    def pass_through(self) -> None:
        """What the engine's thread calls."""
        if not self._open.is_set():
            self._arrived.set()
            assert self._open.wait(PATIENCE)


class RunningEngine:
    """`iterations` are lists of (session, position, rows). `within` is a gate before an iteration
    computes, `between` one between two iterations. `strike` may raise before an iteration."""

    def __init__(
        self,
        bundles: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        max_batch_rows: int = 512,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._bundle = ClientBundle(bundles / "client")
        self.metrics = Metrics()
        settings = EngineSettings(cpu=True, max_batch_rows=max_batch_rows)
        clocks = {} if clock is None else {"clock": clock}
        self.engine = Engine(ServerBundle(bundles / "server"), settings, self.metrics, **clocks)
        self.within, self.between = Gate(), Gate()
        self.iterations: list[list[tuple[str, int, int]]] = []
        self.strike: Callable[[Sequence[Any]], None] = lambda _: None
        forward, count_bytes = engine_module.forward, self.engine._count_bytes
        warm_up = loaded_model.warm_up

        def watched(model: Any, runnable: Any, *progress: Any) -> Any:
            self.iterations.append(
                [
                    (each.step.session_id.decode(), each.position, each.num_rows)
                    for each, _ in runnable
                ]
            )
            self.within.pass_through()
            self.strike(runnable)
            return forward(model, runnable, *progress)

        def counted() -> None:  # the last that the engine does of an iteration
            count_bytes()
            self.between.pass_through()

        # a busy machine would be taken for a slow device, whose iterations are shorter
        monkeypatch.setattr(loaded_model, "warm_up", lambda model: min(warm_up(model), 1e-3))
        monkeypatch.setattr(engine_module, "forward", watched)
        monkeypatch.setattr(self.engine, "_count_bytes", counted)
        self.engine.start()
        while not self.engine.loaded():
            self.engine._ready.wait(PATIENCE)

    def submit(
        self,
        session: str,
        position: int,
        tokens: Sequence[int],
        rows: WantedRows = WantedRows.ALL,
        dtype: DTypeLike = np.float32,
    ) -> Future[StepOutcome]:
        """Queue a step of hidden states of a type, for whole float32 rows of logits."""
        outcome: Future[StepOutcome] = Future()
        step = Step(
            session_id=session.encode(),
            position=position,
            hidden_states=self._bundle.masked_embeddings(tokens).astype(dtype),
            form=LogitsForm(rows, top_k=0, half_precision=False),
            deliver=outcome.set_result,  # twice would raise
        )
        self.engine.submit(step)
        return outcome

    def run(
        self, session: str, position: int, tokens: Sequence[int], rows: WantedRows = WantedRows.ALL
    ) -> StepOutcome:
        """Queue a step and wait for its outcome."""
        return self.submit(session, position, tokens, rows).result(PATIENCE)

    def occupy(self) -> Future[StepOutcome]:
        """Make the engine compute for a session of its own until `within` is opened, so that what
        is submitted meanwhile comes together."""
        self.within.close()
        outcome = self.submit("occupying", 0, [1])
        self.within.await_arrival()
        return outcome

    def cancel(self, session: str) -> None:
        self.engine.cancel(session.encode())

    def release(self, session: str) -> None:
        self.engine.release(session.encode())

    def fork(self, source: str, session: str, length: int) -> None:
        self.engine.fork(source.encode(), session.encode(), length)

    def settle(self) -> None:
        """Wait until everything asked so far is done, and counted."""
        for _ in range(2):  # what commands free is counted after them
            done = Event()
            self.engine._command(done.set)
            assert done.wait(PATIENCE)

    def stop(self) -> None:
        self.within.open()
        self.between.open()
        self.engine.stop(PATIENCE)


def logits_of(outcome: StepOutcome) -> NDArray[np.float32]:
    """The rows of a step that succeeded."""
    assert outcome.error is None, outcome.error
    assert outcome.logits is not None
    return np.frombuffer(outcome.logits.values, np.float32).reshape(outcome.logits.rows, -1)


def lose(runnable: Sequence[Any], session: str) -> None:
    """Make a session's cache impossible to evaluate, and fail the iteration."""
    for chunk, cache in runnable:
        if chunk.step.session_id == session.encode():
            # a matrix without an inverse
            broken = mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu)
            cache._layers = [mx.broadcast_to(broken[0, 0], each.shape) for each in cache.layers]
            raise RuntimeError("injected")
