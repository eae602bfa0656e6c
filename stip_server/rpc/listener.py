"""The port that clients reach, and gRPC's server on it, which is replaced if it ends by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import grpc

from stip_server.errors import StartError
from stip_server.observe.logs import event
from stip_server.sessions.back_pressure.connections import cut_off_others
from stip_server.sessions.limits import MAX_STEP_BYTES, MESSAGE_OVERHEAD

log = logging.getLogger(__name__)

# Seconds between checks whether gRPC's server still runs, and between attempts to bind the port.
CHECK_INTERVAL = 0.1
# Seconds of silence after which a client is pinged, and seconds in which it must answer.
KEEPALIVE_TIME, KEEPALIVE_TIMEOUT = 20.0, 10.0


class Listener:
    """Binds a port when it is made, and takes calls once it is started."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        credentials: grpc.ServerCredentials | None,
        max_streams: int,
        max_connections: int,
    ) -> None:
        """Bind the port; 0 binds a free one. Raises StartError."""
        self._host = _bracketed(host)
        self._credentials = credentials
        self._max_streams = max_streams
        self._max_connections = max_connections
        self._server, self._port = self._bind(port)
        # servers that have ended by themselves, and wait for the end of their last call
        self._ended_servers: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self._host}:{self._port}"

    async def start(self, add_services: Callable[[Any], None]) -> None:
        """Take calls. `add_services` adds its handlers to the gRPC server that it is given."""
        add_services(_GenericOnly(self._server))
        await self._server.start()

    async def keep(
        self, add_services: Callable[[Any], None], staying: Callable[[], Collection[str]]
    ) -> None:
        """Replace gRPC's server whenever it ends by itself; for ever.

        A call whose path is not UTF-8 ends the server of grpcio 1.85: it closes the port silently.
        Connections of peers that are `staying` go on, with their calls and sessions. Others are cut
        off, since the new server does not count them.
        """
        while True:
            try:
                await self._server.wait_for_termination(CHECK_INTERVAL)
            except Exception as error:  # noqa: BLE001 - whatever ended it
                event(
                    log,
                    logging.WARNING,
                    "gRPC's server has ended by itself, another takes its place",
                    cause=type(error).__name__,
                )
                cut_off_others(self._port, staying())
                await self._replace_server()
                await self.start(add_services)

    async def stop(self, grace: float) -> None:
        """Take no more calls, and cancel those that still run after `grace` seconds."""
        for ended in self._ended_servers:
            ended.cancel()
        await self._server.stop(grace)

    async def _replace_server(self) -> None:
        ended = asyncio.create_task(_stop_after_last_call(self._server))
        self._ended_servers.add(ended)
        ended.add_done_callback(self._ended_servers.discard)
        while True:
            try:
                self._server, _ = self._bind(self._port)
            except StartError:
                await asyncio.sleep(CHECK_INTERVAL)
            else:
                return

    def _bind(self, port: int) -> tuple[Any, int]:
        server: Any = grpc.aio.server(options=self._options())
        address = f"{self._host}:{port}"
        try:
            if self._credentials is not None:
                return server, server.add_secure_port(address, self._credentials)
            return server, server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}", hint="is the port taken? --port 0 takes a free one"
            ) from error

    def _options(self) -> tuple[tuple[str, int], ...]:
        return (
            # otherwise two servers could share a port, and its connections, silently
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_STEP_BYTES + MESSAGE_OVERHEAD),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self._max_streams),
            # otherwise connections could use up the files that the process may open
            ("grpc.max_allowed_incoming_connections", self._max_connections),
            ("grpc.server_handshake_timeout_ms", 10_000),
            # finds clients that have vanished, so that their sessions are parked
            ("grpc.keepalive_time_ms", round(1000 * KEEPALIVE_TIME)),
            ("grpc.keepalive_timeout_ms", round(1000 * KEEPALIVE_TIMEOUT)),
            # a ping of gRPC's own can take the keepalive's place; by default it waits for 60 s
            ("grpc.http2.ping_timeout_ms", round(1000 * KEEPALIVE_TIMEOUT)),
            # a connection without calls makes room for others
            ("grpc.max_connection_idle_ms", 300_000),
            # clients may ping as often as they like to find out whether the server is there; gRPC
            # would otherwise cut them off (too_many_pings)
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
        )


class _GenericOnly:
    """A gRPC server that keeps only the generic handlers of a service, which serve all methods.

    Generated code registers each method as well. For those, grpcio 1.85 leaves Core the address of
    a call that it frees when it ends by itself. Core writes there at shutdown.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Leave them out."""


async def _stop_after_last_call(server: Any) -> None:
    """Stop a server that has ended by itself, and free its memory, once its last call is over."""
    try:
        with suppress(Exception):  # it raises again what ended the server
            await server.wait_for_termination()
    finally:
        await server.stop(None)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
