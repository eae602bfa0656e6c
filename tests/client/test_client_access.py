"""Clients against a small server of our own: TLS, tokens, and what is said when they do not fit."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from stip_client import (
    TLS,
    AsyncClient,
    Client,
    ClientError,
    ConnectionLostError,
    CredentialsError,
    RequestError,
    SecretFilePermissionWarning,
    UnauthenticatedError,
)
from stip_client.cli.connection_options import access, add_server_command
from stip_client.transport.credentials import read_token
from stip_client.transport.endpoint import Endpoint, is_loopback
from tests.support.certificates import Authority, Issued, write_key
from tests.support.waiting import PATIENCE

TOKEN = "the-token-of-this-test"


@dataclass
class Door(InferenceServiceServicer):
    """Lets in whoever brings the token, and remembers every call's authorization."""

    seen: list[tuple[str, list[object]]] = field(default_factory=list)

    def GetModelInfo(self, _: object, context: Any) -> GetModelInfoResponse:  # noqa: N802
        self._check("GetModelInfo", context)
        return GetModelInfoResponse(server_version="door")

    def Infer(self, _: object, context: Any) -> Iterator[Any]:  # noqa: N802
        self._check("Infer", context)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "let in, and no further")
        yield

    def _check(self, method: str, context: Any) -> None:
        found = [value for key, value in context.invocation_metadata() if key == "authorization"]
        self.seen.append((method, found))
        if found != [f"Bearer {TOKEN}"]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "not you")


@contextmanager
def serving(door: Door, credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_InferenceServiceServicer_to_server(door, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port
    server.stop(0).wait()


def server_tls(issued: Issued, client_ca: Path | None = None) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(issued.key.read_bytes(), issued.cert.read_bytes())],
        None if client_ca is None else client_ca.read_bytes(),
        client_ca is not None,
    )


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def bundle(tiny_bundles: Path) -> Path:
    return tiny_bundles / "client"


def info_and_session(target: str, bundle: Path, **options: Any) -> list[ClientError | None]:
    """What model_info() and session() of a Client raise."""
    found: list[ClientError | None] = []
    with Client(target, bundle, **options) as client:
        for call in (client.model_info, client.session):
            try:
                call()
                found.append(None)
            except ClientError as error:
                found.append(error)
    return found


def async_info_and_session(target: str, bundle: Path, **options: Any) -> list[ClientError | None]:
    """What model_info() and session() of an AsyncClient raise."""

    async def run() -> list[ClientError | None]:
        found: list[ClientError | None] = []
        async with AsyncClient(target, bundle, **options) as client:
            for call in (client.model_info, client.session):
                try:
                    await call()
                    found.append(None)
                except ClientError as error:
                    found.append(error)
        return found

    return asyncio.run(run())


Ask = Callable[..., list[ClientError | None]]
both_clients = pytest.mark.parametrize(
    "ask", [info_and_session, async_info_and_session], ids=["Client", "AsyncClient"]
)


@both_clients
def test_the_token_goes_with_every_call(
    ask: Ask, door: Door, authority: Authority, bundle: Path
) -> None:
    with serving(door, server_tls(authority.server())) as port:
        info, session = ask(
            f"localhost:{port}", bundle, tls=TLS(authority.certificate), token=TOKEN
        )
    assert info is None
    assert isinstance(session, RequestError) and "no further" in str(session)
    assert door.seen == [(method, [f"Bearer {TOKEN}"]) for method in ("GetModelInfo", "Infer")]


@both_clients
@pytest.mark.parametrize("token", [None, TOKEN + "x"])
def test_a_missing_or_wrong_token_is_unauthenticated(
    token: str | None, ask: Ask, door: Door, bundle: Path
) -> None:
    with serving(door) as port:
        for error in ask(f"localhost:{port}", bundle, token=token):
            assert isinstance(error, UnauthenticatedError)
            assert error.code is grpc.StatusCode.UNAUTHENTICATED
            assert str(error) == "not you"
            hint = "--token-file" if token is None else "the token given is not"
            assert hint in str(error.hint)


def test_a_refusal_that_overtakes_a_write_is_not_taken_for_a_lost_connection(
    door: Door, bundle: Path
) -> None:
    """grpc.aio forgets the server's status when a write fails: about one time in ten here."""
    with serving(door) as port:
        for _ in range(100):
            for error in async_info_and_session(f"localhost:{port}", bundle):
                assert isinstance(error, UnauthenticatedError), error


@both_clients
def test_a_client_certificate_is_shown(
    ask: Ask, door: Door, authority: Authority, tmp_path: Path, bundle: Path
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    alice = clients.client("alice")
    credentials = server_tls(authority.server(), clients.certificate)
    with serving(door, credentials) as port:
        tls = TLS(str(authority.certificate), str(alice.cert), str(alice.key))
        info, _ = ask(f"localhost:{port}", bundle, tls=tls, token=TOKEN)
        assert info is None
        refused = ask(f"localhost:{port}", bundle, tls=TLS(authority.certificate))
        for error in refused:
            assert isinstance(error, ConnectionLostError)
            assert "client certificate" in str(error.hint)


@pytest.mark.parametrize(
    ("server", "client", "hint"),
    [
        ("good", "other CA", "not signed by a CA that this client trusts"),
        ("good", "CA of the same name", "not signed by a CA that this client trusts"),
        ("good", "default roots", "not signed by a CA that this client trusts"),
        ("good", "plain", "does the server speak TLS"),
        ("plain", "good", "the server does not speak TLS"),
        ("expired", "good", "has expired"),
        ("another name", "good", "is for another name"),
        ("nothing", "plain", "is the server running"),
        ("nothing", "good", "is the server running"),
    ],
)
@both_clients
def test_a_connection_that_cannot_be_made_has_a_hint_that_fits(
    ask: Ask,
    server: str,
    client: str,
    hint: str,
    door: Door,
    authority: Authority,
    tmp_path: Path,
    bundle: Path,
) -> None:
    credentials = {
        "good": lambda: server_tls(authority.server()),
        "expired": lambda: server_tls(authority.server("expired", expired=True)),
        "another name": lambda: server_tls(authority.server("named", hosts=["example.org"])),
    }.get(server, lambda: None)()
    tls = {
        "good": TLS(authority.certificate),
        "other CA": TLS(Authority(tmp_path / "other", "other").certificate),
        "CA of the same name": TLS(Authority(tmp_path / "same").certificate),
        "default roots": TLS(),
    }.get(client)
    with serving(door, credentials) as port:
        target = f"localhost:{port if server != 'nothing' else 1}"
        for error in ask(target, bundle, tls=tls):
            assert isinstance(error, ConnectionLostError)
            assert str(error).startswith(f"no connection to {target}: ")
            assert hint in str(error.hint), error
    assert not door.seen


@pytest.mark.parametrize("target", ["192.0.2.1:50051", "example.org:1", "0.0.0.0:1", "", "[::]:1"])
def test_a_token_does_not_leave_the_machine_in_plain_text(target: str, bundle: Path) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(RequestError, match="plain text") as caught:
            client(target, bundle, token=TOKEN)
        assert "--insecure" in str(caught.value.hint)
        assert TOKEN not in f"{caught.value!r}"
    Client(target, bundle, token=TOKEN, insecure=True).close()
    Client(target, bundle, token=TOKEN, tls=TLS()).close()
    Client(target, bundle).close()


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("localhost:1", True),
        ("127.0.0.9:1", True),
        ("[::1]:1", True),
        ("localhost.example.org:1", False),
        ("127.0.0.1.nip.io:1", False),
        ("128.0.0.1:1", False),
        ("dns:///localhost:1", False),
        ("localhost", False),
    ],
)
def test_loopback_is_only_what_is_so_for_sure(target: str, loopback: bool) -> None:
    assert is_loopback(target) is loopback


def test_a_proxy_is_not_asked_for_a_loopback_address(
    door: Door, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy, serving(door) as port:
        proxy.settimeout(0.2)
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with Client(f"localhost:{port}", bundle, token=TOKEN, connect_timeout=PATIENCE) as client:
            assert client.model_info().server_version == "door"
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve", "tab\t", "nul\0"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        Endpoint("localhost:1", token=token)
    assert not token or token not in f"{caught.value!r} {caught.value}"


def test_no_repr_and_no_traceback_shows_the_token(door: Door, bundle: Path) -> None:
    with serving(door) as port, Client(f"localhost:{port}", bundle, token=TOKEN) as client:
        endpoint = Endpoint("localhost:1", token=TOKEN)
        assert TOKEN not in repr(client) + repr(endpoint)
        try:
            client.session()
        except ClientError:
            assert TOKEN not in traceback.format_exc() + repr(sys.exc_info())


@pytest.mark.parametrize("content", [f"{TOKEN}", f"{TOKEN}\n", f" {TOKEN} \r\nmore\n"])
def test_the_first_line_of_a_token_file_is_the_token(content: str, tmp_path: Path) -> None:
    assert read_token(secret_file(tmp_path / "token", content)) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b"\n" + TOKEN.encode(), b"alice " + TOKEN.encode(), b"\xff"]
)
def test_a_file_whose_first_line_is_no_token_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = secret_file(tmp_path / "token", content)
    with pytest.raises(CredentialsError) as caught:
        read_token(path)
    assert str(path) in str(caught.value) and "without a name" in str(caught.value.hint)
    assert TOKEN not in f"{caught.value!r}"


def test_files_that_others_can_read_are_used_with_a_warning(
    authority: Authority, tmp_path: Path
) -> None:
    token = secret_file(tmp_path / "token", TOKEN)
    client = authority.client()
    TLS(None, client.cert, client.key).credentials()  # a warning would be an error
    for path in (token, client.key):
        path.chmod(0o644)
    with pytest.warns(SecretFilePermissionWarning, match=f"0644.*chmod 600 {token}"):
        read_token(token)
    with pytest.warns(SecretFilePermissionWarning, match=f"0644.*chmod 600 {client.key}"):
        TLS(None, client.cert, client.key).credentials()


def test_tls_files_that_cannot_be_used_are_errors(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.client(), authority.client("other")
    none, junk = tmp_path / "none", secret_file(tmp_path / "junk", "no PEM")
    encrypted = tmp_path / "encrypted.key"
    key = load_pem_private_key(good.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    write_key(encrypted, key, b"password")
    for tls, says in (
        (TLS(none), f"cannot read the CA file {none}"),
        (TLS(tmp_path), f"cannot read the CA file {tmp_path}"),
        (TLS(junk), f"{junk} holds no certificate"),
        (TLS(None, none, good.key), f"cannot read the certificate {none}"),
        (TLS(None, good.cert, none), f"cannot read the key {none}"),
        (TLS(None, junk, good.key), f"{junk} holds no certificate"),
        (TLS(None, good.cert, junk), f"{junk} holds no key"),
        (TLS(None, good.cert, other.key), f"{other.key} does not belong to"),
        (TLS(None, good.cert, encrypted), f"{encrypted} is encrypted"),
        (TLS(None, good.cert), "needed together"),
        (TLS(None, None, good.key), "needed together"),
    ):
        with pytest.raises(CredentialsError, match=says):
            Endpoint("localhost:1", tls=tls)


def test_the_options_say_what_the_client_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_file(tmp_path / "token", TOKEN)
    parser = argparse.ArgumentParser()
    add_server_command(parser.add_subparsers(), "ask")

    def parse(*arguments: str) -> tuple[TLS | None, str | None, bool]:
        found = access(parser.parse_args(["ask", "--bundle", "b", *arguments]))
        return found["tls"], found["token"], found["insecure"]

    monkeypatch.delenv("STIP_TOKEN", raising=False)
    assert parse() == (None, None, False)
    assert parse("--tls", "--insecure") == (TLS(), None, True)
    assert parse("--tls-ca", "a") == (TLS(Path("a")), None, False)
    pair = TLS(None, Path("c"), Path("k"))
    assert parse("--tls-cert", "c", "--tls-key", "k") == (pair, None, False)
    assert parse("--token-file", str(path)) == (None, TOKEN, False)
    monkeypatch.setenv("STIP_TOKEN", "from-the-environment")
    assert parse() == (None, "from-the-environment", False)
    assert parse("--token-file", str(path)) == (None, TOKEN, False)
    monkeypatch.setenv("STIP_TOKEN", "")
    assert parse() == (None, None, False)


def secret_file(path: Path, content: str | bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
