"""One thread that computes: it loads the weights, evaluates everything and owns every KV cache.

MLX's streams are thread-local, so no other thread touches an array. The engine computes the chunks
that the scheduler chooses, and calls each step's `deliver` with its outcome, on its own thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.manifest_pb2 import Manifest
from stip_model.bundle.manifest import ServerBundle
from stip_model.cache.kv_cache import KVCache, capacity_for, kv_bytes_per_token
from stip_model.operations.operations import Array, Operations
from stip_server.engine.iteration import forward
from stip_server.engine.loaded_model import LoadedModel, load
from stip_server.engine.scheduler import Scheduler
from stip_server.engine.session_caches import SessionCaches
from stip_server.engine.step import Chunk, Step, StepLogits, StepOutcome, join_logits
from stip_server.errors import ServiceError
from stip_server.observe.logs import event
from stip_server.observe.metrics import Metrics
from stip_server.settings import EngineSettings

log = logging.getLogger(__name__)

# Seconds after which an idle engine shows again that it lives.
HEARTBEAT = 1.0
# A copy of this many bytes or more is made between two iterations, for one session at a time.
# Within an iteration it would delay the other sessions.
LARGE_COPY = 16 * 1024 * 1024


class Engine:
    """Start it, submit steps from any thread, stop it."""

    # Set when the weights are loaded. The engine's thread owns them.
    _loaded: LoadedModel
    _caches: SessionCaches

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
        # counts signs of life: iterations, layers of long ones, and waits
        self.beats = 0
        self.kv_bytes_used = 0

    def start(self) -> None:
        """Begin to load the weights."""
        self._thread.start()

    def loaded(self) -> bool:
        """Return whether the engine can serve. Raises what loading raised."""
        if self._failure is not None:
            raise self._failure
        return self._ready.is_set()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    def stop(self, timeout: float) -> None:
        """Let the thread end once no step waits. Wait for that for at most `timeout` seconds."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def operations(self) -> Operations:
        """The operations that compute. Other threads may only read their properties."""
        return self._loaded.model.operations

    @property
    def waiting_steps(self) -> int:
        """The number of steps of which rows wait."""
        with self._wake:
            return len(self._scheduler)

    @property
    def kv_bytes_total(self) -> int:
        """Bytes that the keys and values of all sessions may take."""
        return self._loaded.kv_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that a token takes."""
        return kv_bytes_per_token(self.manifest.model, self.operations.itemsize)

    def kv_bytes(self, length: int) -> int:
        """Return the bytes of keys and values that a session of `length` tokens may take."""
        return capacity_for(length) * self.kv_bytes_per_token

    def submit(self, step: Step) -> None:
        """Queue a step. Its `deliver` is called on the engine's thread when it has run."""
        with self._wake:
            self._scheduler.submit(step)
            self._wake.notify()

    def cancel(self, session_id: bytes) -> None:
        """Fail a session's steps. A chunk that is being computed is finished first."""
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
            self._load()
        except BaseException as error:  # noqa: BLE001 - loaded() raises it in the caller's thread
            self._failure = error
            return
        self._ready.set()
        try:
            while self._iterate():
                pass
        except BaseException:
            # the watchdog sees that the thread is gone, and the clients are informed
            log.critical("the engine has failed and will not compute again", exc_info=True)

    def _load(self) -> None:
        self._loaded = load(self._bundle, self._settings)
        self._caches = SessionCaches(self._loaded.model)
        max_rows = self._loaded.pace.max_rows
        if max_rows < self._scheduler.max_batch_rows:
            event(
                log,
                logging.WARNING,
                "this device is slow: iterations are kept short",
                max_batch_rows=max_rows,
                wanted=self._scheduler.max_batch_rows,
            )
            self._scheduler.max_batch_rows = max_rows

    def _iterate(self) -> bool:
        """Wait for chunks and compute them. Return False when the engine is to end.

        This is a method so that no local variable keeps the outcome while the engine waits.
        """
        chunks = self._next_chunks()
        if chunks is None:
            return False
        self._compute(chunks)
        with self._wake:
            # both at once: from now on cancel() delivers the outcome itself
            self._running.clear()
            cancelled, self._cancelled = self._cancelled, set()
        for step in cancelled:
            _deliver_error(step, _cancelled(), self._caches.length(step.session_id))
        self._count_bytes()
        return True

    def _next_chunks(self) -> list[Chunk] | None:
        """Wait for the next iteration's chunks. Return None when the engine is to end.

        Commands run first, because they may change what a step finds. At most one long copy is made
        before each iteration. Sessions that still need one are left out of the iteration, so that
        the others need not wait.
        """
        copied = False
        while True:
            to_copy = None
            with self._wake:
                self._beat()
                commands, self._commands = self._commands, []
                if not commands:
                    need_copy = self._chunks_before_long_copies()
                    delay = self._scheduler.delay()
                    if delay == 0 and (copied or not need_copy):
                        left_out = [each.step.session_id for each in need_copy]
                        if chunks := self._scheduler.next_chunks(left_out):
                            self._running.update(chunk.step for chunk in chunks)
                            return chunks
                    if self._stopping and not len(self._scheduler):
                        return None
                    if need_copy and (delay == 0 or not copied):
                        to_copy = need_copy[0]
                    else:
                        self._wake.wait(delay or HEARTBEAT)
            # outside the lock, because these take time
            for command in commands:
                command()
                self._beat()
            if commands:
                self._count_bytes()
            if to_copy is not None:
                self._copy_for(to_copy)
                copied = True

    def _chunks_before_long_copies(self) -> list[Chunk]:
        """Return what remains of each first step that needs a long copy, in the queue's order."""
        return [
            each
            for each in self._scheduler.remaining_chunks()
            if self._caches.bytes_to_copy(each.step.session_id, each.position, each.num_rows)
            > LARGE_COPY
        ]

    def _copy_for(self, chunk: Chunk) -> None:
        """Make the copy that a chunk needs. The chunk's step fails where that fails."""
        step = chunk.step
        try:
            for _ in self._caches.ensure_capacity(step.session_id, chunk.position, chunk.num_rows):
                self._beat()
        except Exception as error:
            log.exception("the keys and values of a session could not be copied")
            with self._wake:
                if not self._scheduler.discard(step):
                    return  # it was cancelled meanwhile, and has its outcome
            length = self._caches.length(step.session_id)
            _deliver_error(step, _engine_failed(error), length)

    def _drop(self, session_id: bytes) -> None:
        with self._wake:
            # again: a step of it may have been answered since it was cancelled
            self._scheduler.stop_expecting(session_id)
        for _ in self._caches.drop(session_id):
            self._beat()

    def _compute(self, chunks: Sequence[Chunk]) -> None:
        """Compute chunks and deliver the outcomes of completed steps.

        If that fails, compute each chunk by itself, so that only the one to blame fails.
        """
        runnable = []
        for chunk in chunks:
            cache = self._caches.of(chunk.step.session_id)
            if cache.lost:
                self._fail(chunk, _lost_cache(), 0)
            elif chunk.position > cache.length:
                # only after an earlier step of the session failed: the service checks positions
                self._fail(chunk, _lost_position(chunk, cache), cache.length)
            else:
                runnable.append((chunk, cache))
        if not runnable:
            return
        model, pace = self._loaded.model, self._loaded.pace
        num_rows = sum(chunk.num_rows for chunk, _ in runnable)
        # Evaluating each layer by itself costs a short iteration some of its speed.
        after_layer = self._show_layer if num_rows >= pace.long_rows else None
        began = self._clock()
        try:
            results = forward(model, runnable, self._beat, after_layer, pace.head_rows)
        except Exception as error:
            log.exception("an iteration of %d sessions failed", len(runnable))
            self._compute_one_by_one(runnable, error)
            return
        seconds = self._clock() - began
        with self._wake:
            self._scheduler.record_iteration([chunk for chunk, _ in runnable], seconds)
        for (chunk, cache), parts in zip(runnable, results, strict=True):
            self._add_logits(chunk, cache, parts, seconds)
        decode_rows = sum(chunk.step.num_rows == 1 for chunk, _ in runnable)
        self._metrics.iteration_ran(
            decode_rows=decode_rows,
            prompt_rows=num_rows - decode_rows,
            sessions=len(runnable),
            seconds=seconds,
        )
        if num_rows > decode_rows:
            # buffers of a prompt's size would otherwise stay allocated while single rows decode
            self.operations.clear_cache()

    def _compute_one_by_one(
        self, runnable: Sequence[tuple[Chunk, KVCache]], error: Exception
    ) -> None:
        for chunk, cache in runnable:
            self._beat()  # one chunk may take as long as all together
            try:
                # writes that were under way; rows before them are untouched
                self.operations.evaluate(cache.layers)
            except Exception:
                log.exception("a session's cache is lost")
                cache.lose()
                self._fail(chunk, _lost_cache(), 0)
                continue
            if len(runnable) > 1:
                self._compute([chunk])
            else:
                # its rows may be overwritten from the chunk's position on
                cache.length = chunk.position
                self._fail(chunk, _engine_failed(error), cache.length)

    def _add_logits(
        self, chunk: Chunk, cache: KVCache, parts: list[StepLogits], seconds: float
    ) -> None:
        """Add a chunk's logits to its step, and deliver the step's outcome after the last chunk."""
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
            self._scheduler.discard(chunk.step)
            self._cancelled.discard(chunk.step)
        _deliver_error(chunk.step, error, length)

    def _count_bytes(self) -> None:
        self.kv_bytes_used = self._caches.nbytes

    def _show_layer(self, computed: Array) -> None:
        self.operations.evaluate(computed)
        self._beat()

    def _beat(self) -> None:
        self.beats += 1


def _cancelled() -> ServiceError:
    return ServiceError(ErrorReason.ERROR_REASON_CANCELLED, "the step was cancelled")


def _engine_failed(error: Exception) -> ServiceError:
    return ServiceError(ErrorReason.ERROR_REASON_ENGINE_FAILED, f"step failed: {error}")


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
