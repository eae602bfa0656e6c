"""Puts the server together: starts it, watches its engine, and drains it on a signal."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc

from stip.v1.errors_pb2 import ErrorReason
from stip_server import __version__
from stip_server.auth.callers import Authenticator
from stip_server.engine.engine import Engine
from stip_server.engine.watchdog import TICK, Condition, Watchdog
from stip_server.errors import ServiceError
from stip_server.observe import systemd
from stip_server.observe.logs import event
from stip_server.observe.metrics import Metrics, Observation
from stip_server.observe.metrics_endpoint import serve_metrics
from stip_server.rpc import health, reflection
from stip_server.rpc.health import Health
from stip_server.rpc.listener import Listener
from stip_server.rpc.open_request import SessionOpener
from stip_server.rpc.open_streams import OpenStreams
from stip_server.rpc.reflection import Reflection
from stip_server.rpc.service import SERVICE, InferenceService
from stip_server.rpc.stream import StreamContext
from stip_server.sessions.admission import Admission
from stip_server.sessions.back_pressure.answer_memory import AnswerMemory
from stip_server.sessions.limits import announced_limits, check_max_length, row_bytes
from stip_server.sessions.quotas import Quotas
from stip_server.sessions.sessions import Sessions
from stip_server.sessions.token_rate import TokenRate
from stip_server.settings import LimitSettings, ServerSettings
from stip_server.shutdown import Signals, drain

log = logging.getLogger(__name__)

# Seconds between two checks of whether the weights are loaded.
LOADING_INTERVAL = 0.02
# Seconds between two rounds of maintenance.
MAINTENANCE_INTERVAL = 1.0
# Connections for health checks and handshakes, beyond twice max_connections.
SPARE_CONNECTIONS = 64
# Files of the process that are no connections: the bundle, libraries, listening sockets.
SPARE_FILES = 64
# Seconds for the last statuses to reach their clients.
LAST_STATUSES = 0.5
# Seconds for the engine to finish its current iteration.
ENGINE_STOP = 5.0
# Why streams are refused while the engine does not work.
ENGINE_REASONS = {
    Condition.STALLED: ErrorReason.ERROR_REASON_ENGINE_STALLED,
    Condition.DEAD: ErrorReason.ERROR_REASON_ENGINE_DEAD,
}


async def serve(
    engine: Engine,
    metrics: Metrics,
    settings: ServerSettings,
    limits: LimitSettings,
    announce: Callable[[str, int | None], None],
    *,
    credentials: grpc.ServerCredentials | None,
    authenticator: Authenticator,
) -> None:
    """Listen, load the weights, serve until SIGTERM or SIGINT, finish the running steps.

    A second signal ends the running steps too. Once the server answers requests, it calls
    `announce` with HOST:PORT and the port of the metrics, if any. Raises StartError.
    """
    check_max_length(limits, engine.manifest.model)
    connections = 2 * settings.max_connections + SPARE_CONNECTIONS
    _allow_open_files(connections + SPARE_FILES)
    listener = Listener(
        settings.host,
        settings.port,
        credentials=credentials,
        max_streams=settings.max_streams,
        max_connections=connections,
    )
    endpoint = (
        None
        if settings.metrics_port is None
        else serve_metrics(metrics, settings.metrics_host, settings.metrics_port)
    )
    stop = Signals()
    engine.start()
    while not engine.loaded():
        if stop.first.is_set():
            return  # the loading thread ends with the process
        await asyncio.sleep(LOADING_INTERVAL)

    services = _Services(engine, metrics, limits, authenticator, settings.max_connections)
    await listener.start(services.add_to)
    services.health.set(serving=True)
    watching = asyncio.create_task(services.watch_engine())
    upkeep = [
        asyncio.create_task(services.maintain()),
        asyncio.create_task(listener.keep(services.add_to, services.streams.peers_with_sessions)),
    ]
    announce(listener.address, endpoint.port if endpoint else None)
    systemd.notify(systemd.READY)

    failed = await _run_until(stop, [watching, *upkeep])
    for task in upkeep:
        task.cancel()
    systemd.notify(systemd.STOPPING)
    event(log, logging.INFO, "draining", grace=settings.grace, sessions=len(services.sessions))
    services.health.set(serving=False)
    # The engine is still watched here: if it fails, nobody gets an answer.
    await drain(services.streams, stop, settings.grace)
    watching.cancel()
    # Only health watches and streams without a session remain. None waits for an answer.
    await listener.stop(LAST_STATUSES)
    if endpoint is not None:
        endpoint.close()
    # The engine still delivers to this loop. The default executor may be busy.
    with ThreadPoolExecutor(1) as executor:
        await asyncio.get_running_loop().run_in_executor(executor, engine.stop, ENGINE_STOP)
    event(log, logging.INFO, "stopped")
    if failed is not None:
        raise failed


class _Services:
    """The gRPC services of one engine, and the tasks that maintain them."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        limits: LimitSettings,
        authenticator: Authenticator,
        max_connections: int,
    ) -> None:
        announced = announced_limits(
            limits,
            engine.manifest.model,
            kv_bytes=engine.kv_bytes_total,
            kv_bytes_per_token=engine.kv_bytes_per_token,
            row_bytes=row_bytes(engine.manifest),
        )
        self.engine = engine
        self.answer_memory = AnswerMemory(limits.answer_memory, row_bytes(engine.manifest))
        self.sessions = Sessions(
            Quotas(
                max_sessions=limits.max_sessions,
                kv_bytes=engine.kv_bytes_total,
                max_sessions_per_identity=limits.max_sessions_per_identity,
                kv_bytes_per_identity=limits.kv_memory_per_identity,
            ),
            self.answer_memory,
            kv_bytes=engine.kv_bytes,
            ttl=limits.session_ttl,
            clock=monotonic,
            release=engine.release,
            ended=metrics.session_ended,
        )
        self.admission = Admission(self.sessions)
        self.authenticator = authenticator
        context = StreamContext(
            engine,
            self.sessions,
            SessionOpener(engine, self.sessions, self.admission, announced),
            announced,
            TokenRate(limits.tokens_per_second, monotonic),
            metrics,
        )
        self.streams = OpenStreams(
            context, self.admission, authenticator, max_connections=max_connections
        )
        self.service = InferenceService(context, self.admission, authenticator, self.streams)
        self.health = Health("", SERVICE)
        self.reflection = Reflection(SERVICE, health.NAME, reflection.NAME)
        self.watchdog = Watchdog(engine)
        metrics.built(
            version=__version__,
            model_type=engine.manifest.model.model_type,
            device=engine.operations.device,
            dtype=engine.operations.dtype,
        )
        metrics.watch(self.observe)

    def add_to(self, server: Any) -> None:
        """Register all services with a gRPC server."""
        self.service.add_to(server)
        self.health.add_to(server)
        self.reflection.add_to(server)

    async def maintain(self) -> None:
        """Expire sessions, admit opens, cut off slow readers, reload tokens. Never returns."""
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL)
            self.sessions.expire()
            self.admission.retry()
            self.streams.cut_off_slow_readers()
            if self.authenticator.reload_if_changed():
                self.streams.tokens_changed()

    async def watch_engine(self) -> None:
        """Refuse streams while the engine is stalled or dead. Never returns."""
        while True:
            await asyncio.sleep(TICK)
            changed, condition = self.watchdog.tick(), self.watchdog.condition
            if condition is Condition.WELL:
                systemd.notify(systemd.ALIVE)
            if not changed:
                continue
            if condition is Condition.WELL:
                event(log, logging.WARNING, "the engine works again")
                self.health.set(serving=self.streams.engine_recovered())
            else:
                event(log, logging.CRITICAL, "the engine does not answer", state=condition.value)
                reason = ENGINE_REASONS[condition]
                self.streams.engine_failed(ServiceError(reason, f"the engine is {condition.value}"))
                self.health.set(serving=False)

    def observe(self) -> Observation:
        """The state for one scrape of the metrics. Called on the threads of the endpoint."""
        attached = self.sessions.attached
        return Observation(
            sessions_attached=attached,
            sessions_parked=len(self.sessions) - attached,
            waiting_opens=len(self.admission),
            waiting_steps=self.engine.waiting_steps,
            kv_bytes=self.engine.kv_bytes_total,
            kv_bytes_reserved=self.sessions.kv_bytes_reserved,
            kv_bytes_used=self.engine.kv_bytes_used,
            answer_bytes=self.answer_memory.max_bytes,
            answer_bytes_shared=self.answer_memory.shared_used_bytes,
            answer_bytes_used=self.answer_memory.used_bytes,
            waiting_for_answers=self.answer_memory.waiting,
            engine_heartbeat_age=self.watchdog.seconds_without_beat,
            serving=self.health.serving,
            mlx_active_bytes=self.engine.operations.active_bytes,
            mlx_cache_bytes=self.engine.operations.cached_bytes,
        )


async def _run_until(stop: Signals, tasks: Sequence[asyncio.Task[None]]) -> BaseException | None:
    """Wait for a signal, or for a task to fail. Returns what the task has raised."""
    signalled = asyncio.create_task(stop.first.wait())
    await asyncio.wait({signalled, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    failed = next((each.exception() for each in tasks if each.done()), None)
    if failed is not None:
        event(log, logging.CRITICAL, "a maintenance task of the server failed", exc_info=failed)
    signalled.cancel()
    return failed


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files (256 on macOS). Log a warning if that fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a second limit
        allowed = soft
    if allowed < count:
        event(
            log,
            logging.WARNING,
            "the system allows fewer open files than the connections may need",
            files=count,
            allowed=allowed,
        )
