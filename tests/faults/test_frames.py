"""Connections with wrong HTTP/2 or gRPC, or another protocol, harm neither server nor session."""

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
from tests.support.servers.healthy_session import healthy_session
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.frames import INFER, INFO, PATH_NOT_UTF8, FrameFuzzer
from tests.support.wire.requests import WireStream, connection, dial, open_request, refusal_of

SEED = "frames"
CONNECTIONS = 1500
SILENT = 20
TIMES = 5
NOT_HTTP2 = (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 99)


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    with watched_server(
        talking_bundles / "server", tmp_path, "--session-ttl", 1, "--max-sessions", 2000
    ) as server:
        yield server


def send(address: str, content: bytes, *, waits: bool) -> None:
    """Send what a client sends; read to the end of the answer if it `waits`, or go away."""
    with closing(dial(address)) as wire, suppress(OSError):
        wire.sendall(content)
        if waits:
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass


def test_no_connection_harms_the_server_or_another_session(
    server: Watched, talking_manifest: Manifest
) -> None:
    draw, fuzzer = Random(SEED), FrameFuzzer(SEED, talking_manifest)
    files = server.metric("process_open_fds")
    with healthy_session(server.address, talking_manifest):
        silent = [dial(server.address) for _ in range(SILENT)]
        for number in range(CONNECTIONS):
            noise = draw.randbytes(draw.randint(1, 300))
            other = draw.choice((noise, *NOT_HTTP2))
            content = other if number % 10 == 0 else fuzzer.connection()
            send(server.address, content, waits=draw.random() < 0.8)
        for wire in silent:
            wire.close()
    # enough of them came as far as a stream
    assert server.metric("stip_streams_opened_total") > CONNECTIONS / 20
    eventually(lambda: server.load() == Load())
    eventually(lambda: server.metric("process_open_fds") <= files + 2)
    server.stop()
    # gRPC itself tells of paths and header fields that are not UTF-8
    server.assert_no_errors(of_grpc=False)


@pytest.mark.parametrize("path", ["/stip.v1.InferenceService/Nothing", "/nothing.Service/Infer"])
def test_a_method_that_does_not_exist_is_unimplemented(
    path: str, strict_channel: grpc.Channel
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        strict_channel.unary_unary(path)(b"", timeout=PATIENCE)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_stream_called_as_a_single_call_and_the_other_way_round_ends(
    server: Watched, talking_manifest: Manifest
) -> None:
    with healthy_session(server.address, talking_manifest), connection(server.address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(INFER)(b"\xff", timeout=PATIENCE)
        assert refusal_of(error.value).reason == "MALFORMED"
        with pytest.raises(grpc.RpcError) as error:
            list(channel.stream_stream(INFO)(iter((b"\xff", b"\xff")), timeout=PATIENCE))
        assert error.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    server.stop()
    server.assert_no_errors()


def test_a_model_info_request_of_no_meaning_is_refused(server: Watched) -> None:
    with connection(server.address) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFO)(b"\xff", timeout=PATIENCE)
    refusal = refusal_of(error.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
    server.stop()
    server.assert_no_errors()


def test_a_call_whose_path_is_not_utf8_takes_neither_the_port_nor_the_sessions(
    server: Watched, talking_manifest: Manifest
) -> None:
    with healthy_session(server.address, talking_manifest) as healthy:
        for _ in range(TIMES):
            send(server.address, PATH_NOT_UTF8, waits=False)
            healthy.wait_for_rounds(1)
            with closing(dial(server.address)), connection(server.address) as channel:
                grpc.channel_ready_future(channel).result(PATIENCE)
                with WireStream(channel, deadline=PATIENCE) as stream:
                    stream.send(open_request(talking_manifest, max_length=16)).opened()
        assert server.load().sessions == 1
    server.stop()
    server.assert_no_errors(of_grpc=False)
