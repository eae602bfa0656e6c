"""The statuses that the standard health service sends to a watcher, in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread
from time import monotonic

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.waiting import PATIENCE
from tests.support.wire.requests import connection

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthWatch:
    """Follows the health of a server on a connection of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        self.call = stub.Watch(health_pb2.HealthCheckRequest(service="stip.v1.InferenceService"))
        self._changed = Condition()
        self.seen: list[int] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def await_change(self, status: int) -> float:
        """Wait until the last status seen is `status`; the moment in which it was so."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen[-1:] == [status], PATIENCE), self.seen
        return monotonic()

    def _read(self) -> None:
        with suppress(grpc.RpcError):
            for response in self.call:
                with self._changed:
                    self.seen.append(response.status)
                    self._changed.notify_all()


@contextmanager
def health_of(address: str) -> Iterator[HealthWatch]:
    """Watch a server's health, which must be good at first."""
    with connection(address) as channel:
        watch = HealthWatch(channel)
        watch.await_change(SERVING)
        yield watch
        watch.call.cancel()
