"""The server's TLS files: what is refused at start, and how a renewed pair is taken up."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import UniformResourceIdentifier, load_pem_x509_certificate

from stip_server.auth.callers import Authenticator
from stip_server.auth.tls import _TLSFiles, server_credentials
from stip_server.errors import StartError
from tests.support.certificates import Authority, Issued, write_key
from tests.support.waiting import PATIENCE


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def pair(authority: Authority) -> Issued:
    return authority.server()


def refused(cert: Path, key: Path, client_ca: Path | None = None) -> str:
    """The error and the hint with which files are refused."""
    with pytest.raises(StartError) as caught:
        server_credentials(cert, key, client_ca)
    return f"{caught.value} ({caught.value.hint})"


def test_files_that_are_missing_or_no_files_are_errors(
    pair: Issued, authority: Authority, tmp_path: Path
) -> None:
    none = tmp_path / "none.pem"
    ca = authority.certificate
    assert f"cannot read the certificate {none}: No such file" in refused(none, pair.key)
    assert f"cannot read the key {none}: No such file" in refused(pair.cert, none)
    assert f"cannot read the client CA {none}: No such" in refused(pair.cert, pair.key, none)
    assert "not a regular file" in refused(pair.cert, pair.key, tmp_path)
    server_credentials(pair.cert, pair.key, ca)


def test_files_that_hold_something_else_are_errors(pair: Issued, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    der = load_pem_x509_certificate(pair.cert.read_bytes()).public_bytes(Encoding.DER)
    for content in (b"", b"no PEM", der):
        other.write_bytes(content)
        assert f"{other} holds no certificate" in refused(other, pair.key)
        assert f"{other} holds no key" in refused(pair.cert, other)
        assert f"{other} holds no certificate" in refused(pair.cert, pair.key, other)
    assert f"{pair.key} holds no certificate" in refused(pair.key, pair.cert)
    assert f"{pair.key} holds no certificate" in refused(pair.cert, pair.key, pair.key)
    assert "BEGIN PRIVATE KEY" in refused(pair.cert, pair.cert)


def test_a_key_of_another_certificate_is_an_error(
    pair: Issued, authority: Authority, tmp_path: Path
) -> None:
    rsa_key = tmp_path / "rsa.key"
    write_key(rsa_key, rsa.generate_private_key(65537, 2048))
    for key in (authority.server("other").key, rsa_key):
        assert f"{key} does not belong to the certificate {pair.cert}" in refused(pair.cert, key)


def test_an_encrypted_key_is_an_error_and_no_password_is_asked_for(
    pair: Issued, tmp_path: Path
) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    encrypted = tmp_path / "encrypted.key"
    write_key(encrypted, key, b"password")
    assert f"{encrypted} is encrypted" in refused(pair.cert, encrypted)
    assert "openssl pkey" in refused(pair.cert, encrypted)


def test_a_key_that_others_can_read_is_used_with_a_warning(
    pair: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    server_credentials(pair.cert, pair.key, None)
    assert not caplog.records
    pair.key.chmod(0o644)
    server_credentials(pair.cert, pair.key, None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"chmod 600 {pair.key}" in caplog.text


async def answer(_: bytes, context: Any) -> bytes:
    caller = Authenticator(certificates=True).identify(context)
    return caller.identity.encode()


async def answer_anyone(_: bytes, context: Any) -> bytes:
    return Authenticator().identify(context).identity.encode()


def with_server(
    credentials: grpc.ServerCredentials,
    use: Callable[[int], Awaitable[None]],
    handler: Any = answer,
) -> None:
    """Run a grpc.aio server that answers with the caller's identity, as the real one is run."""

    async def run() -> None:
        server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(handler)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("who", {"Am": method}),)
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            await use(port)
        finally:
            await server.stop(0)

    asyncio.run(run())


async def ask(port: int, ca: Path, client: Issued | None = None, host: str = "localhost") -> str:
    """What a server answers on a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        ca.read_bytes(),
        client.key.read_bytes() if client else None,
        client.cert.read_bytes() if client else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"{host}:{port}", credentials, options) as channel:
        answered: bytes = await channel.unary_unary("/who/Am")(b"", timeout=PATIENCE)
    return answered.decode()


async def refusal(port: int, ca: Path, client: Issued | None = None) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        await ask(port, ca, client)
    code: grpc.StatusCode = caught.value.code()
    return code


def test_clients_without_a_certificate_of_the_client_ca_do_not_get_in(
    pair: Issued, authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    spiffe = clients.client("bob", names=[UniformResourceIdentifier("spiffe://x/bob")])

    async def use(port: int) -> None:
        ca = authority.certificate
        assert await ask(port, ca, clients.client("alice")) == "cert:alice"
        assert await ask(port, ca, spiffe) == "cert:spiffe://x/bob"
        for client in (
            None,
            clients.client("late", expired=True),
            authority.client("mallory"),  # signed by the CA of the server's certificate
        ):
            assert await refusal(port, ca, client) is grpc.StatusCode.UNAVAILABLE

    with_server(server_credentials(pair.cert, pair.key, clients.certificate), use)


def test_without_a_client_ca_everybody_gets_in(pair: Issued, authority: Authority) -> None:
    async def use(port: int) -> None:
        assert await ask(port, authority.certificate) == "anonymous"

    with_server(server_credentials(pair.cert, pair.key, None), use, answer_anyone)


def test_a_renewed_pair_is_taken_up_without_a_restart(
    pair: Issued, authority: Authority, tmp_path: Path
) -> None:
    new_authority = Authority(tmp_path / "new")
    new = new_authority.server()

    async def use(port: int) -> None:
        assert await ask(port, authority.certificate) == "anonymous"
        shutil.copy(new.cert, pair.cert)
        shutil.copy(new.key, pair.key)
        assert await ask(port, new_authority.certificate) == "anonymous"
        assert await refusal(port, authority.certificate) is grpc.StatusCode.UNAVAILABLE

    with_server(server_credentials(pair.cert, pair.key, None), use, answer_anyone)


def test_a_renewed_client_ca_is_taken_up_without_a_restart(
    pair: Issued, authority: Authority, tmp_path: Path
) -> None:
    old, new = Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new")
    path = shutil.copy(old.certificate, tmp_path / "client-ca.pem")

    async def use(port: int) -> None:
        assert await ask(port, authority.certificate, old.client("alice")) == "cert:alice"
        shutil.copy(new.certificate, path)
        assert await ask(port, authority.certificate, new.client("alice")) == "cert:alice"
        code = await refusal(port, authority.certificate, old.client("alice"))
        assert code is grpc.StatusCode.UNAVAILABLE

    with_server(server_credentials(pair.cert, pair.key, path), use)


@pytest.mark.parametrize("damage", ["mismatch", "missing", "no PEM"])
def test_a_bad_renewal_keeps_the_old_pair_and_is_logged_once(
    damage: str,
    pair: Issued,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new_authority = Authority(tmp_path / "new")
    new = new_authority.server()

    async def use(port: int) -> None:
        assert await ask(port, authority.certificate) == "anonymous"
        if damage == "mismatch":
            shutil.copy(new.cert, pair.cert)  # the key has not come yet
        elif damage == "missing":
            pair.cert.unlink()
        else:
            pair.cert.write_text("no PEM")
        for _ in range(3):
            assert await ask(port, authority.certificate) == "anonymous"
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1 and "stays in use" in errors[0].getMessage()
        shutil.copy(new.cert, pair.cert)
        shutil.copy(new.key, pair.key)
        assert await ask(port, new_authority.certificate) == "anonymous"

    with_server(server_credentials(pair.cert, pair.key, None), use, answer_anyone)


def test_a_renewal_that_cannot_be_read_is_taken_up_once_it_can(
    pair: Issued, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _TLSFiles(pair.cert, pair.key, None)
    files.load()
    new = authority.server("new")
    shutil.copy(new.cert, pair.cert)
    shutil.copy(new.key, pair.key)

    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert files.load_if_changed() is None
    assert files.load_if_changed() is not None
    assert files.load_if_changed() is None
