"""No token, key, session id or line of a token file appears in logs, errors or arguments."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from stip.v1.inference_pb2 import ForkPoint
from stip.v1.manifest_pb2 import Manifest
from stip_client import TLS, Client
from tests.support.certificates import Authority
from tests.support.command_line import assert_no_traceback
from tests.support.parties import run_tool
from tests.support.servers.guarded import (
    Guarded,
    bearer,
    guarded_server,
    info_refusal,
    trusting,
    write_tokens,
)
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.requests import WireStream, connection, open_request, step_request

ALICE = "Alice+Secret/0123456789abcdef"
BOB = "Bob+Secret/0123456789abcdef"
STRANGE = "Strange+Secret/0123456789abcdef"
ROWS = np.full((3, 60), 0.1234567, np.float32)


def forms(secret: str) -> list[str]:
    """What would give a secret away: it, its two halves, and what it is encoded or compared as."""
    raw = secret.encode()
    half = len(secret) // 2
    digest = hashlib.sha256(raw)
    return [
        *(secret[:half], secret[half:], base64.b64encode(raw).decode(), raw.hex()),
        *(digest.hexdigest(), repr(digest.digest())[2:-1]),
    ]


def lines_of(pem: Path) -> list[str]:
    return [line for line in pem.read_text().splitlines() if not line.startswith("-----")]


@pytest.fixture
def server(
    request: pytest.FixtureRequest, talking_bundles: Path, tmp_path: Path
) -> Iterator[tuple[Guarded, Authority, Authority]]:
    authority, clients = Authority(tmp_path / "ca"), Authority(tmp_path / "clients", "clients")
    pair = authority.server()
    path = write_tokens(tmp_path / "tokens", f"alice {ALICE}\nbob {BOB}\n")
    arguments = ("--tls-cert", pair.cert, "--tls-key", pair.key, "--token-file", path)
    arguments += (
        "--client-ca",
        clients.certificate,
        "--log-format",
        getattr(request, "param", "text"),
    )
    with guarded_server(talking_bundles / "server", tmp_path, *arguments) as server:
        yield server, authority, clients


@pytest.mark.parametrize("server", ["text", "json"], indirect=True)
def test_the_server_logs_no_credential_whatever_happens(
    server: tuple[Guarded, Authority, Authority],
    talking_bundles: Path,
    talking_manifest: Manifest,
    tmp_path: Path,
) -> None:
    guarded, authority, clients = server
    carol = clients.client("carol")
    with ExitStack() as stack:
        channel, bare, plain = (
            stack.enter_context(connection(guarded.address, credentials))
            for credentials in (
                trusting(authority.certificate, client=carol),
                trusting(authority.certificate),
                None,
            )
        )
        owner = WireStream(channel, metadata=bearer(ALICE)).send(
            open_request(talking_manifest), step_request(0, ROWS)
        )
        session_id = owner.opened().session_id
        owner.result()
        for metadata in (bearer(STRANGE), (("authorization", f"Basic {STRANGE}"),), ()):
            info_refusal(channel, metadata)
        for each in (bare, plain):
            info_refusal(each, bearer(ALICE))
        for changes in (
            {"resume_session_id": session_id},
            {"fork": ForkPoint(session_id=session_id)},
            {"key_id": "wrong"},
        ):
            WireStream(channel, metadata=bearer(BOB)).send(
                open_request(talking_manifest, **changes)
            ).refusal()
        WireStream(channel, metadata=bearer(BOB)).send(b"\xff\xff").refusal()
        with WireStream(channel, metadata=bearer(BOB)) as stream:
            stream.send(open_request(talking_manifest)).opened()
        tls = TLS(authority.certificate, carol.cert, carol.key)
        with (
            Client(guarded.address, talking_bundles / "client", tls=tls, token=ALICE) as client,
            client.session() as session,
        ):
            session.forward([5, 6, 7])
        for damage in (f"{STRANGE}\n", f"alice {STRANGE} # mine\n"):
            before = guarded.said
            write_tokens(tmp_path / "tokens", damage)
            eventually(lambda before=before: "stay valid" in guarded.said[len(before) :])
        write_tokens(tmp_path / "tokens", f"bob {BOB}\n")
        assert owner.refusal().reason == "TOKEN_REVOKED"

    eventually(lambda: "TOKEN_REVOKED" in guarded.said)
    said = guarded.said
    told = [text for token in (ALICE, BOB, STRANGE) for text in forms(token)]
    told += lines_of(tmp_path / "ca" / "server.key") + lines_of(carol.key) + lines_of(carol.cert)
    told += [session_id.hex(), repr(session_id)[2:-1], base64.b64encode(session_id).decode()]
    told += ["0.1234", repr(ROWS.tobytes()[:8])[2:-1]]
    for text in told:
        assert text not in said
    assert "TOKEN_UNKNOWN" in said and "TOKEN_REVOKED" in said and "line 1" in said
    command = psutil.Process(guarded.server.process.pid).cmdline()
    assert not any(text in " ".join(command) for text in told)


@pytest.mark.parametrize("by", ["file", "environment"])
@pytest.mark.parametrize("fault", ["unknown token", "no server", "not TLS", "no token"])
def test_the_client_shows_no_credential_whatever_fails(
    by: str,
    fault: str,
    server: tuple[Guarded, Authority, Authority],
    talking_bundles: Path,
    tmp_path: Path,
) -> None:
    guarded, authority, clients = server
    carol = clients.client("carol")
    secret = STRANGE if fault != "no token" else f"{STRANGE} {STRANGE}"
    address = "localhost:1" if fault == "no server" else guarded.address
    options = ["--tls-ca", authority.certificate, "--tls-cert", carol.cert, "--tls-key", carol.key]
    if fault == "not TLS":
        options = []
    environment = {key: value for key, value in os.environ.items() if key != "STIP_TOKEN"}
    if by == "file":
        options += ["--token-file", write_tokens(tmp_path / "token", secret)]
    else:
        environment["STIP_TOKEN"] = secret
    done = run_tool(
        *("stip_client", "generate", "--server", address, "--bundle", talking_bundles / "client"),
        *("--prompt", "w1", *options),
        env=environment,
    )
    assert done.returncode == 1
    assert_no_traceback(done.stderr)
    assert "hint: " in done.stderr or fault == "no token"
    for text in forms(STRANGE) + lines_of(carol.key):
        assert text not in done.stdout + done.stderr


def test_a_client_that_runs_shows_no_credential_in_its_arguments(
    server: tuple[Guarded, Authority, Authority], talking_bundles: Path, tmp_path: Path
) -> None:
    guarded, authority, clients = server
    carol = clients.client("carol")
    token = write_tokens(tmp_path / "token", ALICE)
    command = [sys.executable, "-m", "stip_client", "generate", "--server", guarded.address]
    command += [
        "--bundle",
        talking_bundles / "client",
        "--prompt",
        "w1",
        "--max-new-tokens",
        "100000",
    ]
    command += ["--tls-ca", authority.certificate, "--tls-cert", carol.cert]
    command += ["--tls-key", carol.key, "--token-file", token]
    command = list(map(str, command))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stdout.read(1)  # it generates
        shown = " ".join(psutil.Process(client.pid).cmdline())
        client.terminate()
        _, errors = client.communicate()
    for text in forms(ALICE) + lines_of(carol.key):
        assert text not in shown + errors.decode()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def raw_call(address: str, path: bytes, authorization: bytes) -> None:
    """A call as no gRPC client would make it; returns when the server has answered it."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        b"authorization": authorization,
    }
    literals = [
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in headers.items()
    ]
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connected:
        connected.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        connected.sendall(frame(1, 4, 1, b"".join(literals)) + frame(0, 1, 1, bytes(5)))
        answer = b""
        while b"grpc-status" not in answer:
            piece = connected.recv(65536)
            assert piece, answer
            answer += piece


@pytest.mark.parametrize("method", ["GetModelInfo", "Infer"])
def test_a_token_that_is_no_text_is_not_logged_either(
    method: str, talking_bundles: Path, tmp_path: Path
) -> None:
    """gRPC itself logs the whole value of metadata that is not UTF-8."""
    path = write_tokens(tmp_path / "tokens", f"alice {ALICE}\n")
    with guarded_server(talking_bundles / "server", tmp_path, "--token-file", path) as server:
        service = f"/stip.v1.InferenceService/{method}".encode()
        for scrap in (b"\xe4", b"\xff\xfe", b"\x1b[2J", b"\n"):
            raw_call(server.server.address, service, b"Bearer " + ALICE.encode() + scrap)
        eventually(lambda: server.said.count("reason=TOKEN_UNKNOWN") == 4)
        assert not any(text in server.said for text in forms(ALICE))
        assert_no_traceback(server.said)
