"""When gRPC's server ends by itself, it does not write into memory that it has freed.

For every method that is registered with it, grpcio 1.85 leaves Core the address of a call that it
then frees, and Core writes there when the server is shut down: a queue lost its content that way.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from stip_server.rpc.listener import Listener
from tests.support.waiting import PATIENCE
from tests.support.wire.frames import PATH_NOT_UTF8

# At every turn of the event loop the test takes a few objects of each size of Python's allocator.
# So it soon owns any memory that was freed.
SIZES = range(64, 480, 16)
A_TURN = 4
TIMES = 3


class Canaries:
    """Takes memory at every turn of the event loop, and checks that nothing else writes there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._taken: list[bytes] = []
        self._turn()

    @property
    def harmed(self) -> int:
        return sum(canary != b"\xaa" * len(canary) for canary in self._taken)

    def _turn(self) -> None:
        for size in SIZES:
            self._taken += [b"\xaa" * size for _ in range(A_TURN)]
        self._loop.call_soon(self._turn)


def add_services(server: Any) -> None:
    servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in stubs
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)


async def end_by_itself(listener: Listener) -> None:
    """Have gRPC's server end, and wait until another has taken its place."""
    host, _, port = listener.address.rpartition(":")
    former = listener._server
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(PATH_NOT_UTF8)
        while listener._server is former:
            await asyncio.sleep(0)


async def serve_and_end() -> int:
    listener = Listener("127.0.0.1", 0, credentials=None, max_streams=100, max_connections=100)
    await listener.start(add_services)
    keeping = asyncio.create_task(listener.keep(add_services, set))
    canaries = Canaries(asyncio.get_running_loop())
    for _ in range(TIMES):
        await asyncio.wait_for(end_by_itself(listener), PATIENCE)
    keeping.cancel()
    await listener.stop(0)
    return canaries.harmed


def test_a_server_that_ends_by_itself_does_not_write_into_freed_memory() -> None:
    assert asyncio.run(serve_and_end()) == 0
