"""SIGTERM on a server: running steps are answered, and idle clients do not delay the exit."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stip.v1.inference_pb2 import GetModelInfoRequest
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip.v1.manifest_pb2 import Manifest
from stip_client import Client, ConnectionLostError
from tests.support.command_line import assert_no_traceback, assert_refused
from tests.support.parties import Server, run_tool
from tests.support.servers.brake import Brake
from tests.support.waiting import PATIENCE
from tests.support.wire.requests import WireStream, connection, open_request, step_request

# Seconds: so long that a server that something idle holds up counts as hanging.
LONG_GRACE = ("--grace", 3600)
LONG_ROWS = 800
LONG_STEP = np.ones((LONG_ROWS, 60), np.float16)
ROWS = np.ones((3, 60), np.float16)


def stop(server: Server, signum: int = signal.SIGTERM) -> None:
    """Stop a server. It must exit with 0 and without a traceback."""
    server.process.send_signal(signum)
    wait_for_exit(server)


def wait_for_exit(server: Server) -> None:
    server.process.wait(PATIENCE)
    assert server.process.stderr is not None
    assert_no_traceback(server.process.stderr.read())
    assert server.process.returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_steps_under_way_are_answered(
    signum: int, own_server: Callable[..., Server], talking_manifest: Manifest
) -> None:
    server = own_server()
    with connection(server.address) as channel:
        stream = WireStream(channel).send(open_request(talking_manifest))
        stream.opened()
        starts = range(0, 4 * LONG_ROWS, LONG_ROWS)  # as many as may be in flight
        stream.send(*(step_request(start, LONG_STEP) for start in starts))
        assert stream.result().length == LONG_ROWS
        server.process.send_signal(signum)
        for start in starts[1:]:
            assert stream.result().length == start + LONG_ROWS
        refusal = stream.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        wait_for_exit(server)


@contextmanager
def open_session(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    stream = WireStream(channel).send(open_request(manifest), step_request(0, ROWS))
    stream.opened()
    stream.result()
    yield
    assert stream.refusal().reason == "DRAINING"


@contextmanager
def parked_session(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    stream = WireStream(channel).send(open_request(manifest))
    stream.opened()
    stream.break_off()
    yield


@contextmanager
def stream_without_open(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    del manifest
    stream = WireStream(channel)
    # HTTP/2 keeps the order: the stream has arrived before this call is answered
    InferenceServiceStub(channel).GetModelInfo(GetModelInfoRequest())
    yield
    assert stream.refusal().code is grpc.StatusCode.UNAVAILABLE


@contextmanager
def idle_connection(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    del manifest
    InferenceServiceStub(channel).GetModelInfo(GetModelInfoRequest())
    yield


@contextmanager
def health_watch(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    del manifest
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), timeout=PATIENCE
    )
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    yield
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def reflection_stream(channel: grpc.Channel, manifest: Manifest) -> Iterator[None]:
    del manifest
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    ended = Event()

    def requests() -> Iterator[object]:
        yield asked
        ended.wait(PATIENCE)

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    next(stub.ServerReflectionInfo(requests(), timeout=PATIENCE))
    yield
    ended.set()


@pytest.mark.parametrize(
    "idle",
    [
        open_session,
        parked_session,
        stream_without_open,
        idle_connection,
        health_watch,
        reflection_stream,
    ],
    ids=lambda f: f.__name__,
)
def test_what_is_idle_does_not_hold_up_the_exit(
    idle: Callable[..., contextmanager[None]],
    own_server: Callable[..., Server],
    talking_manifest: Manifest,
) -> None:
    server = own_server(*LONG_GRACE)
    with connection(server.address) as channel, idle(channel, talking_manifest):
        stop(server)


def test_a_client_is_told_that_the_server_shuts_down(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server()
    with (
        Client(server.address, talking_bundles / "client", patience=0) as client,
        client.session() as session,
    ):
        session.forward([5, 6, 7])
        stop(server)
        with pytest.raises(ConnectionLostError, match="shutting down"):
            session.forward([8])


@pytest.mark.parametrize("grace", [0, 0.05])
def test_a_server_without_grace_does_not_wait_for_what_runs(
    grace: float,
    own_server: Callable[..., Server],
    talking_manifest: Manifest,
    tmp_path: Path,
) -> None:
    brake = Brake(tmp_path)
    server = own_server("--grace", grace, faults=[brake.pause])
    brake.press(after_rows=LONG_ROWS)
    with connection(server.address) as channel:
        stream = WireStream(channel).send(open_request(talking_manifest))
        stream.opened()
        stream.send(
            *(step_request(start, LONG_STEP) for start in range(0, 4 * LONG_ROWS, LONG_ROWS))
        )
        stream.result()
        stop(server)


def test_a_port_that_is_taken_is_an_error(talking_bundles: Path, strict_server: Server) -> None:
    port = strict_server.address.rpartition(":")[2]
    done = run_tool("stip_server", "--model", talking_bundles / "server", "--port", port, "--cpu")
    assert_refused(done, f"cannot listen on 127.0.0.1:{port}", hint="--port 0")
    assert done.stdout == ""


def test_a_host_that_is_not_ours_is_an_error(talking_bundles: Path) -> None:
    done = run_tool(
        *(
            "stip_server",
            "--model",
            talking_bundles / "server",
            "--host",
            "192.0.2.1",
            "--port",
            0,
            "--cpu",
        ),
        "--insecure",
    )
    assert_refused(done, "cannot listen on 192.0.2.1:0")
