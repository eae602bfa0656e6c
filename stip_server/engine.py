"""Owns MLX: one thread loads the weights, evaluates everything and holds every KV cache.

MLX's streams are thread-local, so nothing else in the server touches an MLX array. The engine takes
steps from the scheduler and hands each outcome to the step's `deliver`, on its own thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Manifest
from stip_server.bundle import ServerBundle
from stip_server.cache import KVCache
from stip_server.errors import Aborted, Internal, OutOfRange, ServiceError
from stip_server.loader import compute_dtype, load_model
from stip_server.model import Model, Segment
from stip_server.scheduler import Scheduler
from stip_server.steps import Step, StepLogits, StepOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """How to compute. dtype is "auto", "float16", "bfloat16" or "float32"."""

    cpu: bool = False
    dtype: str = "auto"
    fused: bool = False  # compile the elementwise chains of a layer
    max_batch_rows: int = 1024


class Engine:
    """Start it, submit steps from any thread, stop it."""

    def __init__(self, bundle: ServerBundle, settings: EngineSettings) -> None:
        self._bundle = bundle
        self._settings = settings
        self._scheduler = Scheduler(settings.max_batch_rows)
        self._wake = threading.Condition()
        self._released: list[bytes] = []
        self._stopping = False
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stip-engine", daemon=True)
        self._caches: dict[bytes, KVCache] = {}
        self.device = ""
        self.dtype = ""

    def start(self) -> None:
        """Begin to load the weights."""
        self._thread.start()

    def loaded(self) -> bool:
        """Whether the engine can serve. Raises what loading raised."""
        if self._failure is not None:
            raise self._failure
        return self._ready.is_set()

    def stop(self) -> None:
        """Finish the iteration under way and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    def submit(self, step: Step) -> None:
        """Queue a step; its `deliver` is called on the engine's thread when it has run."""
        with self._wake:
            self._scheduler.submit(step)
            self._wake.notify()

    def cancel(self, session_id: bytes) -> None:
        """Fail the waiting steps of a session. The one that runs, if any, finishes."""
        with self._wake:
            cancelled = self._scheduler.cancel(session_id)
        for step in cancelled:
            _deliver_error(step, perf_counter(), Aborted("CANCELLED", "the step was cancelled"))

    def release(self, session_id: bytes) -> None:
        """Cancel a session's steps, and free its cache at the next iteration."""
        self.cancel(session_id)
        with self._wake:
            self._released.append(session_id)
            self._wake.notify()

    # -- the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            model = self._load()
        except BaseException as error:  # noqa: BLE001 - loaded() raises it in the caller's thread
            self._failure = error
            return
        self._ready.set()
        while (batch := self._next_batch()) is not None:
            self._run_batch(model, batch)

    def _load(self) -> Model:
        on_cpu = self._settings.cpu or not (mx.metal.is_available() or mx.cuda.is_available())
        mx.set_default_device(mx.cpu if on_cpu else mx.gpu)
        dtype = compute_dtype(self._settings.dtype, self.manifest.dtype, on_cpu=on_cpu)
        self.device = "cpu" if on_cpu else "metal" if mx.metal.is_available() else "cuda"
        self.dtype = str(dtype).removeprefix("mlx.core.")
        return load_model(self._bundle, dtype, fused=self._settings.fused)

    def _next_batch(self) -> list[Step] | None:
        with self._wake:
            while True:
                for session_id in self._released:
                    self._caches.pop(session_id, None)
                self._released.clear()
                if batch := self._scheduler.next_batch():
                    return batch
                if self._stopping:
                    return None
                self._wake.wait()

    def _run_batch(self, model: Model, batch: Sequence[Step]) -> None:
        started = perf_counter()
        runnable = []
        for step in batch:
            cache = self._caches.get(step.session_id)
            if cache is None:
                cache = self._caches[step.session_id] = model.new_cache()
            if step.position > cache.length:
                # only after an earlier step of the session failed: the service checks positions
                _deliver_error(step, started, _lost_position(step, cache))
            else:
                runnable.append((step, cache))
        if not runnable:
            return
        try:
            results = _forward(model, runnable)
        except Exception as error:
            log.exception("a batch of %d steps failed", len(runnable))
            for step, _ in runnable:
                # what the cache holds after a failed evaluation is unknown
                del self._caches[step.session_id]
                _deliver_error(step, started, Internal("ENGINE_FAILED", f"step failed: {error}"))
            return
        seconds = perf_counter() - started
        for (step, _), logits in zip(runnable, results, strict=True):
            step.deliver(StepOutcome(started, seconds, logits))
        if any(step.num_rows > 1 for step, _ in runnable):
            # buffers of a prompt's size would otherwise stay allocated while single rows decode
            mx.clear_cache()


def _forward(model: Model, runnable: Sequence[tuple[Step, KVCache]]) -> list[StepLogits | None]:
    """Run the steps of one batch and move their caches on."""
    segments = []
    start = 0
    for step, cache in runnable:
        cache.length = step.position  # the rollback
        cache.reserve(step.num_rows)
        stop = start + step.num_rows
        segments.append(Segment(cache, start, stop, stop - step.wanted_rows))
        start = stop
    rows = [step.hidden_states for step, _ in runnable]
    hidden_states = mx.array(rows[0] if len(rows) == 1 else _concatenate(rows))
    logits = model(hidden_states, segments)

    outputs: list[tuple[mx.array, ...] | None] = []
    first = 0
    for step, _ in runnable:
        wanted = step.wanted_rows
        if wanted and logits is not None:
            outputs.append(_output(logits[first : first + wanted], step))
            first += wanted
        else:
            outputs.append(None)
    mx.eval(outputs, [cache.arrays for _, cache in runnable])
    for step, cache in runnable:
        cache.length += step.num_rows
    return [None if output is None else _to_bytes(output) for output in outputs]


def _output(logits: mx.array, step: Step) -> tuple[mx.array, ...]:
    """(values,) of the whole vocabulary, or (values, indices, log_sum_exp) of the top k."""
    logits = logits.astype(mx.float32)
    dtype = mx.float16 if step.half_precision else mx.float32
    if step.top_k == 0:
        return (logits.astype(dtype),)
    if step.top_k == 1:
        indices = mx.argmax(logits, axis=-1, keepdims=True)
    else:
        largest = mx.argpartition(-logits, step.top_k - 1, axis=-1)[:, : step.top_k]
        order = mx.argsort(-mx.take_along_axis(logits, largest, axis=-1), axis=-1)
        indices = mx.take_along_axis(largest, order, axis=-1)
    values = mx.take_along_axis(logits, indices, axis=-1)
    return values.astype(dtype), indices.astype(mx.int32), mx.logsumexp(logits, axis=-1)


def _to_bytes(output: tuple[mx.array, ...]) -> StepLogits:
    rows, width = output[0].shape
    return StepLogits(rows, width, *(np.asarray(array).tobytes() for array in output))


def _concatenate(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of one dtype; of several, in float32, which holds every wire type exactly."""
    if len({each.dtype for each in rows}) > 1:
        rows = [each.astype(np.float32) for each in rows]
    return np.concatenate(rows)


def _lost_position(step: Step, cache: KVCache) -> ServiceError:
    return OutOfRange(
        "POSITION_BEYOND_END",
        f"position {step.position} is beyond the session's {cache.length} tokens",
        field="step.position",
    )


def _deliver_error(step: Step, started: float, error: ServiceError) -> None:
    step.deliver(StepOutcome(started, 0.0, error=error))
