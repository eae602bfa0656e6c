"""The Prometheus metrics of a server. Knows no session and no socket.

The engine's thread and the event loop count events with the methods of Metrics. Values that can be
read at any time, such as the number of sessions, are read during a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stip.v1.errors_pb2 import ErrorReason
from stip_server.errors import STATUS_CODES, reason_name

EndCause = Literal["closed", "expired", "evicted", "revoked", "failed"]

# 1 ms is a small model's decode step, 2 min a long prompt on a CPU
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = tuple(2**exponent for exponent in range(13))  # 1 .. 4096
SESSIONS = tuple(2**exponent for exponent in range(9))  # 1 .. 256

# A series for the start time of every counter is not needed: Prometheus detects resets.
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Observation:
    """The state of a server at one moment. Memory in bytes, ages in seconds."""

    sessions_attached: int
    sessions_parked: int
    waiting_opens: int
    waiting_steps: int
    kv_bytes: int  # limit for all sessions
    kv_bytes_reserved: int
    kv_bytes_used: int  # allocated now
    answer_bytes: int  # limit of unread answers, beyond one row of logits a session
    answer_bytes_shared: int  # unread, counted against that limit
    answer_bytes_used: int  # all unread answers
    waiting_for_answers: int  # steps that wait until other sessions' answers are read
    engine_heartbeat_age: float
    serving: bool
    mlx_active_bytes: int
    mlx_cache_bytes: int


class Metrics:
    """The metrics of one server, in their own registry. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # open files, memory, CPU; only on Linux
        tokens = self._counter("stip_tokens", "Tokens computed.", "kind")
        self._prompt_tokens = tokens.labels("prompt")
        self._decode_tokens = tokens.labels("decode")
        steps = self._counter("stip_steps", "Steps that the engine ended.", "outcome")
        self._steps_ok = steps.labels("ok")
        self._steps_failed = steps.labels("error")
        self.streams_opened = self._counter("stip_streams_opened", "Infer calls that began.")
        rejections = self._counter(
            "stip_rejections", "Calls ended with an error, by the reason in ErrorInfo.", "reason"
        )
        # every label from the start: alerts cannot see an increase from nothing to 1
        self._rejections = {
            reason: rejections.labels(reason_name(reason)) for reason in STATUS_CODES
        }
        ended = self._counter("stip_sessions_ended", "Sessions that ended, by cause.", "cause")
        self._ended: dict[EndCause, Counter] = {
            cause: ended.labels(cause) for cause in get_args(EndCause)
        }
        self.held_back_seconds = self._counter(
            "stip_held_back_seconds", "Time that callers were held back by their token rate."
        )
        self.connections_cut_off = self._counter(
            "stip_connections_cut_off", "Connections ended because their client did not read."
        )
        self._queue = self._histogram(
            "stip_step_queue_seconds", "Time that a step waited for the engine.", SECONDS
        )
        self._compute = self._histogram(
            "stip_step_compute_seconds",
            "Computation of a step, shared with the steps it was batched with.",
            SECONDS,
        )
        self._iteration = self._histogram(
            "stip_iteration_seconds", "Time that an iteration of the engine took.", SECONDS
        )
        self._rows = self._histogram("stip_iteration_rows", "Rows that an iteration ran.", ROWS)
        self._sessions = self._histogram(
            "stip_iteration_sessions", "Sessions that an iteration ran.", SESSIONS
        )

    # -- called by the engine --------------------------------------------------------------------

    def iteration_ran(
        self, *, decode_rows: int, prompt_rows: int, sessions: int, seconds: float
    ) -> None:
        """Count an iteration of `seconds`. The rows of one-row steps are decode rows."""
        self._iteration.observe(seconds)
        self._rows.observe(decode_rows + prompt_rows)
        self._sessions.observe(sessions)
        self._decode_tokens.inc(decode_rows)
        self._prompt_tokens.inc(prompt_rows)

    # -- called by the service -------------------------------------------------------------------

    def step_ended(self, error: Exception | None) -> None:
        """Count a step that the engine has computed, failed or cancelled."""
        (self._steps_ok if error is None else self._steps_failed).inc()

    def step_answered(self, *, queue_seconds: float, compute_seconds: float) -> None:
        """Record the times of a step whose answer is sent."""
        self._queue.observe(queue_seconds)
        self._compute.observe(compute_seconds)

    def rejected(self, reason: ErrorReason) -> None:
        """Count a call that ended with an error."""
        self._rejections[reason].inc()

    def session_ended(self, cause: EndCause) -> None:
        """Count a session that has ended."""
        self._ended[cause].inc()

    # -- called once, at start -------------------------------------------------------------------

    def built(self, **labels: str) -> None:
        """Set the labels of stip_build_info, once the model is loaded."""
        Info("stip_build", "What is served.", registry=self.registry).info(labels)

    def watch(self, observe: Callable[[], Observation]) -> None:
        """Read the gauges from `observe`. Each scrape calls it once, on its own thread."""
        self.registry.register(_Gauges(observe))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)


class _Gauges(Collector):
    """Makes all gauges of a scrape from one Observation, so that they are consistent."""

    def __init__(self, observe: Callable[[], Observation]) -> None:
        self._observe = observe

    def collect(self) -> Iterator[GaugeMetricFamily]:
        seen = self._observe()
        sessions = GaugeMetricFamily("stip_sessions", "Sessions that exist.", labels=["state"])
        sessions.add_metric(["attached"], seen.sessions_attached)
        sessions.add_metric(["parked"], seen.sessions_parked)
        yield sessions
        free = seen.kv_bytes - seen.kv_bytes_reserved
        for name, text, value in (
            ("waiting_opens", "Open requests that wait for room.", seen.waiting_opens),
            ("waiting_steps", "Steps that wait for the engine.", seen.waiting_steps),
            # not kv_bytes_total: only counters may end like that
            ("kv_capacity_bytes", "Keys and values that sessions may reserve.", seen.kv_bytes),
            ("kv_reserved_bytes", "Keys and values reserved.", seen.kv_bytes_reserved),
            ("kv_used_bytes", "Keys and values allocated now.", seen.kv_bytes_used),
            ("kv_free_bytes", "Keys and values that an open can still reserve.", free),
            (
                "answer_capacity_bytes",
                "Answers that sessions may leave unread beyond a row of logits each.",
                seen.answer_bytes,
            ),
            ("answer_shared_bytes", "Answers unread of these.", seen.answer_bytes_shared),
            ("answer_used_bytes", "Answers computed, or not read yet.", seen.answer_bytes_used),
            (
                "waiting_for_answers",
                "Steps that wait until others' answers have been read.",
                seen.waiting_for_answers,
            ),
            (
                "engine_heartbeat_age_seconds",
                "Time since the engine's thread last showed that it runs.",
                seen.engine_heartbeat_age,
            ),
            ("serving", "1 while new streams are taken, 0 otherwise.", seen.serving),
            ("mlx_active_memory_bytes", "Memory in MLX arrays.", seen.mlx_active_bytes),
            ("mlx_cache_memory_bytes", "Memory that MLX keeps to use again.", seen.mlx_cache_bytes),
        ):
            yield GaugeMetricFamily(f"stip_{name}", text, value)
