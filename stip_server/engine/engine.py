"""Owns MLX: one thread loads the weights, evaluates everything and holds every KV cache.

MLX's streams are thread-local, so nothing else in the server touches an MLX array. The engine
takes chunks of steps from the scheduler and hands each step's outcome to its `deliver`, on its own
thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic

import mlx.core as mx

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.manifest_pb2 import Manifest
from stip_model.bundle.manifest import ServerBundle
from stip_model.cache.kv_cache import KVCache
from stip_model.decoder import Model
from stip_model.loading import compute_dtype, load_model
from stip_model.operations.device import choose_device, memory_left, set_wired_limit
from stip_model.operations.operations import operations
from stip_server.engine.iteration import WARM_UP_ROWS, forward, warm_up
from stip_server.engine.iteration_pace import pace_of
from stip_server.engine.scheduler import Scheduler
from stip_server.engine.session_caches import SessionCaches
from stip_server.engine.step import Chunk, Step, StepLogits, StepOutcome, join_logits
from stip_server.errors import ServiceError
from stip_server.observe.logs import event
from stip_server.observe.metrics import Metrics
from stip_server.sessions import kv_memory as memory
from stip_server.settings import EngineSettings

log = logging.getLogger(__name__)

# Seconds after which an idle engine shows again that it lives.
HEARTBEAT = 1.0
# Bytes to copy from which a session is made room for between two iterations, one session at a time:
# within one they would keep the others waiting.
LARGE_COPY = 16 * 1024 * 1024


class Engine:
    """Start it, submit steps from any thread, stop it."""

    def __init__(
        self,
        bundle: ServerBundle,
        settings: EngineSettings,
        metrics: Metrics,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._bundle = bundle
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._scheduler = Scheduler(settings.max_batch_rows, clock)
        self._wake = threading.Condition()
        # what to do before the next iteration, in order
        self._commands: list[Callable[[], None]] = []
        # steps with a chunk in the iteration under way, and those of them that were cancelled
        self._running: set[Step] = set()
        self._cancelled: set[Step] = set()
        self._stopping = False
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stip-engine", daemon=True)
        self._caches = SessionCaches()
        self._long_rows = 1  # from which an iteration shows its progress
        # counts signs of life: iterations, layers of long ones, and waits
        self.beats = 0
        self.device = ""
        self.dtype = ""
        self.kv_bytes_total = 0
        self.kv_bytes_used = 0
        self.kv_bytes_per_token = 0

    def start(self) -> None:
        """Begin to load the weights."""
        self._thread.start()

    def loaded(self) -> bool:
        """Whether the engine can serve. Raises what loading raised."""
        if self._failure is not None:
            raise self._failure
        return self._ready.is_set()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """Let the thread end once nothing waits, and wait for that, `timeout` seconds at most."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def waiting_steps(self) -> int:
        """Steps that wait, or of which rows wait."""
        with self._wake:
            return len(self._scheduler)

    @property
    def active_bytes(self) -> int:
        """Bytes in MLX's arrays."""
        return int(mx.get_active_memory())

    @property
    def cached_bytes(self) -> int:
        """Bytes that MLX keeps to use again."""
        return int(mx.get_cache_memory())

    def kv_bytes(self, length: int) -> int:
        """Bytes of keys and values that a session of so many tokens may take."""
        return memory.capacity_for(length) * self.kv_bytes_per_token

    def submit(self, step: Step) -> None:
        """Queue a step; its `deliver` is called on the engine's thread when it has run."""
        with self._wake:
            self._scheduler.submit(step)
            self._wake.notify()

    def cancel(self, session_id: bytes) -> None:
        """Fail the steps of a session that wait; of one that runs, the chunk under way finishes."""
        with self._wake:
            cancelled = self._scheduler.cancel(session_id)
            self._cancelled.update(step for step in cancelled if step in self._running)
            waiting = [step for step in cancelled if step not in self._running]
        for step in waiting:
            # its earlier chunks, if any, were committed
            length = None if step.started is None else self._caches.length(step.session_id)
            _deliver_error(step, _cancelled(), length)

    def release(self, session_id: bytes) -> None:
        """Cancel a session's steps, and free its cache before the next iteration."""
        self.cancel(session_id)
        self._command(lambda: self._drop(session_id))

    def fork(self, source_id: bytes, session_id: bytes, length: int) -> None:
        """Let a new session begin with the first `length` tokens of another, which is idle."""
        self._command(lambda: self._caches.fork(source_id, session_id, length))

    def _command(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    # -- the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            model = self._load()
        except BaseException as error:  # noqa: BLE001 - loaded() raises it in the caller's thread
            self._failure = error
            return
        self._ready.set()
        try:
            while self._iterate(model):
                pass
        except BaseException:
            # the watchdog sees the thread gone, and tells the clients
            log.critical("the engine has failed and will not compute again", exc_info=True)

    def _iterate(self, model: Model) -> bool:
        """Wait for a batch and compute it; whether there was one, or the engine is to end.

        A frame of its own: none that waits for the next batch holds the answers of this one.
        """
        batch = self._next_batch()
        if batch is None:
            return False
        self._run_batch(model, batch)
        self._deliver_cancelled()
        self._count_bytes()
        return True

    def _load(self) -> Model:
        settings = self._settings
        self.device = choose_device(cpu=settings.cpu)
        on_cpu = self.device == "cpu"
        if settings.wired_limit is not None:
            set_wired_limit(settings.wired_limit)
        dtype = compute_dtype(settings.dtype, self.manifest.dtype, on_cpu=on_cpu)
        self.dtype = str(dtype).removeprefix("mlx.core.")
        suited = operations(dtype, on_cpu=on_cpu, fused=settings.compile_decode)
        model = load_model(self._bundle, dtype, suited)
        seconds = warm_up(model)
        mx.clear_cache()
        self.kv_bytes_per_token = memory.kv_bytes_per_token(self.manifest.model, dtype.size)
        self.kv_bytes_total = settings.kv_memory.of(memory_left(self.device))
        self._keep_pace(model, seconds)
        return model

    def _keep_pace(self, model: Model, seconds: float) -> None:
        pace = pace_of(seconds, WARM_UP_ROWS[-1], len(model.layers))
        self._long_rows = pace.long_rows
        model.head_rows = min(model.head_rows, pace.head_rows)
        if pace.max_rows < self._scheduler.max_batch_rows:
            event(
                log,
                logging.WARNING,
                "this device is slow: iterations are kept short",
                max_batch_rows=pace.max_rows,
                wanted=self._scheduler.max_batch_rows,
            )
            self._scheduler.max_batch_rows = pace.max_rows

    def _next_batch(self) -> list[Chunk] | None:
        """Wait for the next iteration's chunks; None when the engine is to end.

        What was asked before is done first: it may change what a step finds. Of long copies there
        is one before each iteration, and who still needs one is left out: others' answers need not
        wait for it.
        """
        copied = False
        while True:
            to_copy = None
            with self._wake:
                self._beat()
                commands, self._commands = self._commands, []
                if not commands:
                    large = self._long_copies()
                    hold = self._scheduler.hold()
                    if hold == 0 and (copied or not large):
                        left_out = [each.step.session_id for each in large]
                        if batch := self._scheduler.next_batch(left_out):
                            self._running.update(chunk.step for chunk in batch)
                            return batch
                    if self._stopping and not len(self._scheduler):
                        return None
                    if large and (hold == 0 or not copied):
                        to_copy = large[0]
                    else:
                        self._wake.wait(hold or HEARTBEAT)
            # outside the lock: these take their time
            for command in commands:
                command()
                self._beat()
            if commands:
                self._count_bytes()
            if to_copy is not None:
                self._copy(to_copy)
                copied = True

    def _long_copies(self) -> list[Chunk]:
        """What waits for a long copy: the rest of a session's first step, those in front first."""
        return [
            each
            for each in self._scheduler.first_rest()
            if self._caches.copying(each.step.session_id, each.position, each.num_rows) > LARGE_COPY
        ]

    def _copy(self, rest: Chunk) -> None:
        """Copy what stands in the way of a step, which fails where that fails."""
        step = rest.step
        try:
            for _ in self._caches.make_room(step.session_id, rest.position, rest.num_rows):
                self._beat()
        except Exception as error:
            log.exception("the keys and values of a session could not be copied")
            with self._wake:
                if not self._scheduler.drop(step):
                    return  # cancelled meanwhile, and told so
            length = self._caches.length(step.session_id)
            _deliver_error(
                step,
                ServiceError(ErrorReason.ERROR_REASON_ENGINE_FAILED, f"step failed: {error}"),
                length,
            )

    def _drop(self, session_id: bytes) -> None:
        with self._wake:
            # again: a step of it may have been answered since it was cancelled
            self._scheduler.forget(session_id)
        for _ in self._caches.drop(session_id):
            self._beat()

    def _run_batch(self, model: Model, batch: Sequence[Chunk]) -> None:
        """Compute and deliver; where that fails, each chunk alone, so that one fails alone."""
        runnable = []
        for chunk in batch:
            cache = self._caches.of(chunk.step.session_id, model)
            if cache.lost:
                self._fail(chunk, _lost_cache(), 0)
            elif chunk.position > cache.length:
                # only after an earlier step of the session failed: the service checks positions
                self._fail(chunk, _lost_position(chunk, cache), cache.length)
            else:
                runnable.append((chunk, cache))
        if not runnable:
            return
        began = self._clock()
        try:
            results = forward(model, runnable, self._beat, self._after_layer(runnable))
        except Exception as error:
            log.exception("an iteration of %d sessions failed", len(runnable))
            self._retry_alone(model, runnable, error)
            return
        seconds = self._clock() - began
        with self._wake:
            self._scheduler.computed([chunk for chunk, _ in runnable], seconds)
        for (chunk, cache), parts in zip(runnable, results, strict=True):
            self._complete(chunk, cache, parts, seconds)
        decode_rows = sum(chunk.step.num_rows == 1 for chunk, _ in runnable)
        prompt_rows = sum(chunk.num_rows for chunk, _ in runnable) - decode_rows
        self._metrics.iteration_ran(
            decode_rows=decode_rows,
            prompt_rows=prompt_rows,
            sessions=len(runnable),
            seconds=seconds,
        )
        if prompt_rows:
            # buffers of a prompt's size would otherwise stay allocated while single rows decode
            mx.clear_cache()

    def _retry_alone(
        self, model: Model, runnable: Sequence[tuple[Chunk, KVCache]], error: Exception
    ) -> None:
        for chunk, cache in runnable:
            self._beat()  # one that has not failed may take as long as all together
            try:
                # writes that were under way; rows before them are untouched
                mx.eval(cache.arrays)
            except Exception:
                log.exception("a session's cache is lost")
                cache.lose()
                self._fail(chunk, _lost_cache(), 0)
                continue
            if len(runnable) > 1:
                self._run_batch(model, [chunk])
            else:
                # its rows may be overwritten from the chunk's position on
                cache.length = chunk.position
                failure = ServiceError(
                    ErrorReason.ERROR_REASON_ENGINE_FAILED, f"step failed: {error}"
                )
                self._fail(chunk, failure, cache.length)

    def _complete(
        self, chunk: Chunk, cache: KVCache, parts: list[StepLogits], seconds: float
    ) -> None:
        step = chunk.step
        step.computed += seconds
        step.parts += parts
        if chunk.is_last:
            queued = (step.started or step.submitted) - step.submitted
            logits = join_logits(step.parts)
            step.parts.clear()
            step.deliver(StepOutcome(queued, step.computed, cache.length, logits))

    def _fail(self, chunk: Chunk, error: ServiceError, length: int) -> None:
        with self._wake:
            self._scheduler.drop(chunk.step)
            self._cancelled.discard(chunk.step)
        _deliver_error(chunk.step, error, length)

    def _deliver_cancelled(self) -> None:
        with self._wake:
            # together: what is cancelled from now on is delivered by whoever cancels it
            self._running.clear()
            cancelled, self._cancelled = self._cancelled, set()
        for step in cancelled:
            _deliver_error(step, _cancelled(), self._caches.length(step.session_id))

    def _count_bytes(self) -> None:
        self.kv_bytes_used = self._caches.nbytes

    def _after_layer(
        self, runnable: Sequence[tuple[Chunk, KVCache]]
    ) -> Callable[[mx.array], None] | None:
        """What shows progress in an iteration that takes long: a heartbeat a layer.

        Evaluating each layer by itself would cost a short iteration some of its speed.
        """
        if sum(chunk.num_rows for chunk, _ in runnable) < self._long_rows:
            return None

        def evaluate(hidden_states: mx.array) -> None:
            mx.eval(hidden_states)
            self._beat()

        return evaluate

    def _beat(self) -> None:
        self.beats += 1


def _cancelled() -> ServiceError:
    return ServiceError(ErrorReason.ERROR_REASON_CANCELLED, "the step was cancelled")


def _lost_cache() -> ServiceError:
    return ServiceError(
        ErrorReason.ERROR_REASON_CACHE_LOST,
        "the session's keys and values are lost: open another one",
    )


def _lost_position(chunk: Chunk, cache: KVCache) -> ServiceError:
    return ServiceError(
        ErrorReason.ERROR_REASON_POSITION_BEYOND_END,
        f"position {chunk.position} is beyond the session's {cache.length} tokens",
        field="step.position",
    )


def _deliver_error(step: Step, error: ServiceError, length: int | None) -> None:
    step.deliver(StepOutcome(length=length, error=error))
