"""The port that clients reach: gRPC's server on it, and another where that one ends by itself."""

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

# Seconds between looking whether gRPC's server still takes calls, and between tries to take the
# port again.
CHECK_INTERVAL = 0.1
# Seconds of silence after which a client is asked whether it is there, and that it has to answer.
KEEPALIVE_TIME, KEEPALIVE_TIMEOUT = 20.0, 10.0


class Listener:
    """Takes a port at once, and calls once it is started."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        credentials: grpc.ServerCredentials | None,
        max_streams: int,
        max_connections: int,
    ) -> None:
        """Take the port; 0 is a free one. Raises StartError."""
        self._host = _bracketed(host)
        self._credentials = credentials
        self._max_streams = max_streams
        self._max_connections = max_connections
        self._server, self._port = self._take(port)
        # those that have ended by themselves, until their last call has
        self._former: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self._host}:{self._port}"

    async def start(self, add_services: Callable[[Any], None]) -> None:
        """Take calls. `add_services` is given a gRPC server to add its handlers to."""
        add_services(_GenericOnly(self._server))
        await self._server.start()

    async def keep(
        self, add_services: Callable[[Any], None], staying: Callable[[], Collection[str]]
    ) -> None:
        """Replace gRPC's server whenever it has ended by itself; for ever.

        A single call whose path is not UTF-8 makes grpcio 1.85 do so: it closes the port and tells
        nobody. The calls of the peers that are `staying` go on, and so do their sessions; other
        connections end, since the next server does not count them.
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
                await self._replace()
                await self.start(add_services)

    async def stop(self, grace: float) -> None:
        """Take no more calls; cancel after `grace` seconds what still runs."""
        for former in self._former:
            former.cancel()
        await self._server.stop(grace)

    async def _replace(self) -> None:
        former = asyncio.create_task(_bury(self._server))
        self._former.add(former)
        former.add_done_callback(self._former.discard)
        while True:
            try:
                self._server, _ = self._take(self._port)
            except StartError:
                await asyncio.sleep(CHECK_INTERVAL)
            else:
                return

    def _take(self, port: int) -> tuple[Any, int]:
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
            # two servers on one port would share its connections silently
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_STEP_BYTES + MESSAGE_OVERHEAD),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self._max_streams),
            # whoever can connect could otherwise leave the process without files to open
            ("grpc.max_allowed_incoming_connections", self._max_connections),
            ("grpc.server_handshake_timeout_ms", 10_000),
            # a client that vanished without a word is found out, and its session parked
            ("grpc.keepalive_time_ms", round(1000 * KEEPALIVE_TIME)),
            ("grpc.keepalive_timeout_ms", round(1000 * KEEPALIVE_TIMEOUT)),
            # a ping that gRPC sent for its own ends stands in for it, and would be waited for 60 s
            ("grpc.http2.ping_timeout_ms", round(1000 * KEEPALIVE_TIMEOUT)),
            # a connection on which nothing runs makes room
            ("grpc.max_connection_idle_ms", 300_000),
            # clients ping to find out that a server is gone; however often, they are not cut off
            # for it (too_many_pings)
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.http2.max_ping_strikes", 0),
        )


class _GenericOnly:
    """A gRPC server to which generated code adds a service: its generic handlers, which serve all.

    For each method that is registered as well, grpcio 1.85 leaves Core the address of a call that
    it frees when it ends by itself, and Core writes there when it is shut down.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Leave them out."""


async def _bury(server: Any) -> None:
    """Wait until the last call of a server that has ended is over, and free what it holds."""
    try:
        with suppress(Exception):  # it raises once more what ended it
            await server.wait_for_termination()
    finally:
        await server.stop(None)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
