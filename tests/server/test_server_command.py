"""The command line of stip-server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from stip.v1.inference_pb2 import GetModelInfoRequest
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip.v1.manifest_pb2 import Scheme
from stip.v1.tensor_pb2 import DataType
from stip_client import Client
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.waiting import PATIENCE

SERVICE = "stip.v1.InferenceService"


def test_model_info_tells_what_is_served(
    tiny_server: Server, tiny_checkpoint: RandomCheckpoint
) -> None:
    with grpc.insecure_channel(tiny_server.address) as channel:
        info = InferenceServiceStub(channel).GetModelInfo(GetModelInfoRequest())
    assert info.model.hidden_size == tiny_checkpoint.hidden_size
    assert info.model.vocab_size == tiny_checkpoint.vocab_size
    assert info.scheme == Scheme.SCHEME_PERMUTATION
    assert info.compute_dtype == DataType.DATA_TYPE_FLOAT32  # auto, on a CPU
    assert len(info.key_id) == 32
    assert info.limits.max_length == tiny_checkpoint.max_position_embeddings
    assert info.limits.echo_allowed


def test_the_standard_health_service_answers(tiny_server: Server) -> None:
    with grpc.insecure_channel(tiny_server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_describes_the_service(tiny_server: Server) -> None:
    with grpc.insecure_channel(tiny_server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        assert database.FindFileContainingSymbol(SERVICE).name == "stip/v1/inference.proto"


def test_the_server_says_which_blas_is_in_use_and_exits_0_on_sigterm(tiny_bundles: Path) -> None:
    with server_process(tiny_bundles / "server") as server:
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 0
    assert "BLAS: " in errors
    assert "float32 on cpu" in errors


def test_without_a_fast_blas_the_server_says_how_to_install_one(tiny_bundles: Path) -> None:
    with server_process(tiny_bundles / "server", "--blas", "bundled") as server:
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=PATIENCE)
    assert "libblis4-pthread" in errors
    assert "libopenblas0-pthread" in errors


def test_scheme_none_is_announced_at_start(
    tmp_path: Path, tiny_checkpoint: RandomCheckpoint
) -> None:
    checkpoint = tiny_checkpoint.write(tmp_path / "checkpoint")
    bundles = convert(checkpoint, tmp_path / "bundles", "--scheme", "none")
    with server_process(bundles / "server") as server:
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=PATIENCE)
    assert "hides nothing" in errors


def test_a_requested_dtype_is_used(tiny_bundles: Path) -> None:
    with (
        server_process(tiny_bundles / "server", "--dtype", "bfloat16") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        info = InferenceServiceStub(channel).GetModelInfo(GetModelInfoRequest())
    assert info.compute_dtype == DataType.DATA_TYPE_BFLOAT16


@pytest.mark.skipif(shutil.which("c++") is None, reason="mx.compile on a CPU needs a C++ compiler")
def test_compiled_elementwise_operations_give_the_same_answers(
    tmp_path: Path, tiny_bundles: Path, tiny_checkpoint: RandomCheckpoint
) -> None:
    prompt = list(range(20))
    with (
        server_process(tiny_bundles / "server", "--compile-decode") as server,
        Client(server.address, tiny_bundles / "client") as client,
        client.session() as session,
    ):
        rows = session.forward(prompt)
        session.rollback(19)
        last = session.forward(prompt[19:])
    expected = Oracle(tiny_checkpoint.write(tmp_path / "checkpoint")).logits(prompt)
    assert_equal_logits(rows, expected)
    assert_equal_logits(last, expected[-1:])


def test_systemd_hears_that_it_is_ready_that_it_lives_and_that_it_stops(
    tiny_bundles: Path, tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(PATIENCE)
        systemd.bind(address)
        environment = os.environ | {"NOTIFY_SOCKET": address}
        with server_process(tiny_bundles / "server", env=environment) as server:
            assert systemd.recv(100) == b"READY=1"
            assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
            server.process.send_signal(signal.SIGTERM)
            while (state := systemd.recv(100)) == b"READY=1\nWATCHDOG=1":
                pass
            assert state == b"STOPPING=1"
            assert server.process.wait(PATIENCE) == 0


def test_with_json_logs_every_line_on_stderr_is_an_object(tiny_bundles: Path) -> None:
    with server_process(tiny_bundles / "server", "--log-format", "json") as server:
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=PATIENCE)
    records = [json.loads(line) for line in errors.splitlines()]
    assert [record["message"] for record in records][-1] == "stopped"
    assert any(record["message"].startswith("BLAS: ") for record in records)


def test_with_json_logs_an_error_at_the_start_is_an_object_too(tmp_path: Path) -> None:
    done = run_tool("stip_server", "--model", tmp_path / "gone", "--log-format", "json")
    (record,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert record["level"] == "ERROR" and "manifest.json" in record["message"] and record["hint"]
