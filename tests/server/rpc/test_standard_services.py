"""Health and reflection: callers that never read, or ask too much, harm nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from stip.v1.manifest_pb2 import Manifest
from stip_server.rpc import health, reflection
from tests.support.servers.brake import Brake
from tests.support.servers.health_watch import NOT_SERVING, SERVING, health_of
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.frames import never_reading
from tests.support.wire.requests import WireStream, connection, dial, open_request, step_request

WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVICE = "stip.v1.InferenceService"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LIST = ServerReflectionRequest(list_services="")
STALLING = 17
# Seconds: so long that a server that waits for its end counts as hanging.
GRACE = 3600
START = Callable[..., Watched]


@pytest.fixture
def start(talking_bundles: Path, tmp_path: Path) -> Iterator[START]:
    with ExitStack() as stack:

        def start(*faults: str) -> Watched:
            server = watched_server(
                talking_bundles / "server", tmp_path, "--grace", GRACE, faults=faults
            )
            return stack.enter_context(server)

        yield start


def call(server: Watched, stack: ExitStack, path: str, *messages: bytes) -> None:
    """Call a method on a connection of its own, and never read what it answers."""
    wire = stack.enter_context(closing(dial(server.address)))
    wire.sendall(never_reading(path, *messages))


def lists_services(server: Watched) -> bool:
    with connection(server.address) as channel:
        calls = ServerReflectionStub(channel).ServerReflectionInfo(iter([LIST]), timeout=PATIENCE)
        names = {each.name for each in next(calls).list_services_response.service}
    return names == {SERVICE, health.NAME, reflection.NAME}


def test_health_tells_what_it_is_asked(start: START) -> None:
    server = start()
    with connection(server.address) as channel:
        stub = HealthStub(channel)
        for name in ("", SERVICE):
            assert stub.Check(HealthCheckRequest(service=name)).status == SERVING
        statuses = stub.List(HealthListRequest()).statuses
        assert {name: each.status for name, each in statuses.items()} == {"": SERVING} | {
            SERVICE: SERVING
        }
        with pytest.raises(grpc.RpcError) as error:
            stub.Check(HealthCheckRequest(service="another"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        unknown = stub.Watch(HealthCheckRequest(service="another"), timeout=PATIENCE)
        assert next(unknown).status == 3  # SERVICE_UNKNOWN, and the call goes on
        unknown.cancel()
        for method in ("Check", "Watch"):
            bad = channel.unary_unary(f"/{health.NAME}/{method}")
            with pytest.raises(grpc.RpcError) as error:
                bad(b"\xff", timeout=PATIENCE)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    server.stop()
    server.assert_no_errors()


def test_watchers_that_never_read_keep_nobody_from_hearing_of_a_stalled_engine(
    start: START, talking_manifest: Manifest, tmp_path: Path
) -> None:
    brake = Brake(tmp_path)
    brake.press()
    server = start(brake.stall(STALLING))
    with ExitStack() as stack, connection(server.address) as channel:
        for name in ("", SERVICE, "another"):
            call(server, stack, WATCH, HealthCheckRequest(service=name).SerializeToString())
        watch = stack.enter_context(health_of(server.address))
        stream = WireStream(channel).send(open_request(talking_manifest, max_length=64))
        stream.opened()
        stream.send(step_request(0, np.ones((STALLING, 60), np.float16)))
        assert stream.refusal().reason == "ENGINE_STALLED"
        watch.await_change(NOT_SERVING)
        assert HealthStub(channel).Check(HealthCheckRequest()).status == NOT_SERVING
        brake.release()
        watch.await_change(SERVING)
        WireStream(channel).send(open_request(talking_manifest, max_length=64)).opened()


@pytest.mark.parametrize("path", [WATCH, REFLECT], ids=["health", "reflection"])
def test_callers_that_never_read_do_not_hold_up_the_end(start: START, path: str) -> None:
    server = start()
    message = HealthCheckRequest() if path == WATCH else LIST
    with ExitStack() as stack:
        for _ in range(40):
            call(server, stack, path, message.SerializeToString())
        assert lists_services(server)
        server.stop()


def test_more_reflection_streams_than_a_pool_has_threads_are_answered(start: START) -> None:
    server = start(f"reflection={GRACE}")  # none of them ends while a slow machine opens the others
    with ExitStack() as stack:
        for _ in range(reflection.MAX_STREAMS - 1):
            call(server, stack, REFLECT)
        assert lists_services(server)
        for _ in range(2):
            call(server, stack, REFLECT)

        def refused() -> bool:
            with connection(server.address) as channel:
                stub = ServerReflectionStub(channel)
                try:
                    list(stub.ServerReflectionInfo(iter([LIST]), timeout=PATIENCE))
                except grpc.RpcError as error:
                    return error.code() is EXHAUSTED
            return False

        eventually(refused)
    # they have hung up
    eventually(lambda: not refused())
    assert lists_services(server)


def test_watches_are_bounded_and_keep_none_of_the_names_they_were_asked_for(
    start: START,
) -> None:
    server = start()
    before = server.rss
    large = HealthCheckRequest(service="x" * 1_000_000)
    with connection(server.address) as channel, ExitStack() as stack:
        watches = []
        for _ in range(80):  # one at a time, so that none waits in gRPC's buffers
            watches.append(HealthStub(channel).Watch(large))
            stack.callback(watches[-1].cancel)
            assert next(watches[-1]).status == 3
        assert server.rss - before < 60
        channels = [stack.enter_context(connection(server.address)) for _ in range(11)]
        more = [
            HealthStub(each).Watch(HealthCheckRequest()) for each in channels for _ in range(95)
        ]
        for watch in more:
            stack.callback(watch.cancel)
        told = [told_first(watch) for watch in more]
        assert set(told) == {SERVING, EXHAUSTED}
        assert len(watches) + told.count(SERVING) == health.MAX_WATCHES


def told_first(watch: Any) -> object:
    """The first status that a watch is told, or the code with which it ends."""
    try:
        return next(watch).status
    except grpc.RpcError as error:
        return error.code()
