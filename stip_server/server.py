"""Builds the gRPC server around an engine, announces it, and drains it on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from stip_server.engine import Engine
from stip_server.errors import StartError
from stip_server.limits import MAX_STEP_BYTES, MESSAGE_OVERHEAD, LimitSettings, limits
from stip_server.service import SERVICE, InferenceService
from stip_server.sessions import Sessions

log = logging.getLogger(__name__)

EXPIRY_INTERVAL = 5.0
LOADING_INTERVAL = 0.02
# seconds in which the last statuses reach their clients
FAREWELL = 0.5
CHANNEL_OPTIONS = (
    # two servers on one port would share its connections silently
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_STEP_BYTES + MESSAGE_OVERHEAD),
    ("grpc.max_send_message_length", -1),
    # clients ping to find out that a peer is gone; grant them that
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen, what to accept, and how many seconds running steps get at shutdown."""

    host: str = "127.0.0.1"
    port: int = 50051
    grace: float = 30.0
    limits: LimitSettings = field(default_factory=LimitSettings)


async def serve(
    engine: Engine, settings: ServerSettings, announce: Callable[[Engine, str], None]
) -> None:
    """Take the port, load the weights, serve until SIGTERM or SIGINT, finish the steps under way.

    `announce` is called with HOST:PORT once requests are answered. Raises StartError.
    """
    announced_limits = limits(settings.limits, engine.manifest.model)
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    port = _listen(server, settings)
    engine.start()
    while not engine.loaded():
        await asyncio.sleep(LOADING_INTERVAL)  # Ctrl-C ends the process here, SIGTERM anywhere

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)

    sessions = Sessions(
        max_sessions=settings.limits.max_sessions,
        ttl=settings.limits.session_ttl,
        clock=monotonic,
        release=engine.release,
    )
    service = InferenceService(engine, sessions, announced_limits)
    service.add_to(server)
    health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # absent from the stubs
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    await server.start()
    await _set_health(health_servicer, health_pb2.HealthCheckResponse.SERVING)
    expiry = asyncio.create_task(_expire_regularly(sessions))
    announce(engine, f"{_bracketed(settings.host)}:{port}")

    await stop.wait()
    log.info("draining: running steps get %g s to finish", settings.grace)
    await _set_health(health_servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        await asyncio.wait_for(service.drain(), settings.grace)
    except asyncio.TimeoutError:
        log.warning("steps were still running after %g s", settings.grace)
        service.abandon()
    # what is left are health watches and streams that never opened: nobody waits for an answer
    await server.stop(FAREWELL)
    expiry.cancel()
    # while the loop still runs, to which the engine delivers
    await loop.run_in_executor(None, engine.stop)


def _listen(server: Any, settings: ServerSettings) -> int:
    address = f"{_bracketed(settings.host)}:{settings.port}"
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(
            f"cannot listen on {address}", hint="is the port taken? --port 0 takes a free one"
        ) from error
    return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _set_health(servicer: Any, status: Any) -> None:
    for name in ("", SERVICE):
        await servicer.set(name, status)


async def _expire_regularly(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(EXPIRY_INTERVAL)
        sessions.expire()
