"""A server whose log nobody reads answers, and ends on SIGTERM."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import grpc

from stip.v1.manifest_pb2 import Manifest
from tests.support.certificates import Authority
from tests.support.parties import server_process
from tests.support.servers.guarded import model_info, trusting
from tests.support.waiting import PATIENCE
from tests.support.wire.requests import WireStream, connection, open_request

# Handshakes that fail: gRPC writes some lines of its own for each.
HANDSHAKES = 1000
# Each of them is a line of more than a hundred bytes: far more than a pipe holds.
CALLS = 2000


def test_a_log_that_nobody_reads_holds_up_nobody(
    talking_bundles: Path, talking_manifest: Manifest
) -> None:
    with (
        server_process(talking_bundles / "server", stderr=subprocess.PIPE) as server,
        connection(server.address) as channel,
    ):
        for _ in range(CALLS):
            told = (
                WireStream(channel).send(open_request(talking_manifest, key_id="another")).refusal()
            )
            assert told.code is grpc.StatusCode.FAILED_PRECONDITION
        assert model_info(channel).key_id == talking_manifest.key_id
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0


def test_nor_do_handshakes_that_fail(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    issued = authority.server("localhost")
    options = ("--host", "localhost", "--tls-cert", issued.cert, "--tls-key", issued.key)
    with server_process(talking_bundles / "server", *options, stderr=subprocess.PIPE) as server:
        port = int(server.address.rpartition(":")[2])
        for _ in range(HANDSHAKES):
            with socket.create_connection(("localhost", port), timeout=PATIENCE) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
                with suppress(ConnectionError):
                    while plain.recv(1000):
                        pass
        with connection(f"localhost:{port}", trusting(authority.certificate)) as channel:
            assert model_info(channel).key_id == talking_manifest.key_id
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
