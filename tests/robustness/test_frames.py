"""Connections that speak HTTP/2 or gRPC wrongly, or something else: none of them harms a server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import grpc
import pytest

from stip.v1.inference_pb2 import Load
from stip.v1.manifest_pb2 import Manifest
from tests.robustness.frames import INFER, INFO, FrameFuzzer
from tests.robustness.healthy import healthy_session
from tests.robustness.watched import PATIENCE, Watched, eventually, watched_server
from tests.robustness.wire import connection

SEED = "frames"
CONNECTIONS = 500
SILENT = 20
NOT_HTTP2 = (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 99)


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Watched]:
    with watched_server(model / "server", tmp_path, "--session-ttl", 1) as server:
        yield server


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def send(address: str, content: bytes, *, waits: bool) -> None:
    """Send what a client sends; read to the end of the answer if it `waits`, or go away."""
    with closing(dial(address)) as wire, suppress(ConnectionError):
        wire.sendall(content)
        if waits:
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass


def test_no_connection_harms_the_server_or_another_session(
    server: Watched, manifest: Manifest
) -> None:
    draw, fuzzer = Random(SEED), FrameFuzzer(SEED, manifest)
    files = server.metric("process_open_fds")
    with healthy_session(server.address, manifest):
        silent = [dial(server.address) for _ in range(SILENT)]
        for number in range(CONNECTIONS):
            noise = draw.randbytes(draw.randint(1, 300))
            other = draw.choice((noise, *NOT_HTTP2))
            content = other if number % 10 == 0 else fuzzer.connection()
            send(server.address, content, waits=draw.random() < 0.8)
        for wire in silent:
            wire.close()
    eventually(lambda: server.load() == Load())
    eventually(lambda: server.metric("process_open_fds") <= files + 2)
    server.stop()
    server.assert_no_errors()


@pytest.mark.parametrize("path", ["/stip.v1.InferenceService/Nothing", "/nothing.Service/Infer"])
def test_a_method_that_does_not_exist_is_unimplemented(path: str, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(path)(b"", timeout=PATIENCE)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stream_called_as_a_single_call_and_the_other_way_round_ends(
    server: Watched, manifest: Manifest
) -> None:
    with healthy_session(server.address, manifest), connection(server.address) as channel:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(INFER)(b"\xff", timeout=PATIENCE)
        with pytest.raises(grpc.RpcError):
            list(channel.stream_stream(INFO)(iter((b"\xff", b"\xff")), timeout=PATIENCE))
    server.stop()
    server.assert_no_errors()
