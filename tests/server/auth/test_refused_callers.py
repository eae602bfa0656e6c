"""TLS and client certificates: a caller without the right ones cannot make a call."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import grpc
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from stip_client import TLS, AsyncClient, Client, ConnectionLostError
from tests.support.certificates import Authority, Issued
from tests.support.command_line import assert_refused
from tests.support.parties import Server, run_tool
from tests.support.servers.guarded import (
    TIMES,
    Guarded,
    guarded_server,
    info_refusal,
    model_info,
    trusting,
)
from tests.support.sessions.client_session import core_of
from tests.support.waiting import eventually
from tests.support.wire.requests import WireStream, connection, open_request, step_request

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ROWS = np.ones((3, 60), np.float16)
RENEWALS = 40


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another CA of the same name."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA of the clients."""
    return Authority(tmp_path_factory.mktemp("clients"), "clients")


@pytest.fixture(scope="module")
def start(
    talking_bundles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Guarded]]:
    """Starts a server with a certificate and maybe a CA for its clients."""
    with ExitStack() as stack:

        def start(issued: Issued, client_ca: Path | None = None) -> Guarded:
            arguments: list[object] = ["--tls-cert", issued.cert, "--tls-key", issued.key]
            arguments += [] if client_ca is None else ["--client-ca", client_ca]
            folder = tmp_path_factory.mktemp("server")
            return stack.enter_context(
                guarded_server(talking_bundles / "server", folder, *arguments)
            )

        yield start


@pytest.fixture(scope="module")
def secure(start: Callable[..., Guarded], authority: Authority) -> Guarded:
    return start(authority.server())


@pytest.fixture(scope="module")
def mutual(start: Callable[..., Guarded], authority: Authority, clients: Authority) -> Guarded:
    return start(authority.server("mutual"), clients.certificate)


def no_connection(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Whatever is called over such a connection, it is UNAVAILABLE, and no server says so."""
    with connection(address, credentials) as channel:
        refusal = info_refusal(channel)
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "")
        refusal = WireStream(channel).refusal()
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "")


def test_with_the_right_ca_a_session_works_by_name_and_by_address(
    secure: Guarded, authority: Authority, talking_bundles: Path
) -> None:
    for host in ("localhost", "127.0.0.1"):
        tls = TLS(authority.certificate)
        with (
            Client(f"{host}:{secure.port}", talking_bundles / "client", tls=tls) as client,
            client.session() as session,
        ):
            assert np.isfinite(session.forward([5, 6, 7])).all()


@contextmanager
def mistake(
    name: str,
    start: Callable[..., Guarded],
    secure: Guarded,
    plain: Server,
    authority: Authority,
    stranger: Authority,
) -> Iterator[tuple[str, TLS | None]]:
    """The address of a server, and how a client goes wrong about it."""
    right = TLS(authority.certificate)
    if name == "another CA":
        yield secure.address, TLS(stranger.certificate)
    elif name == "default roots":
        yield secure.address, TLS()
    elif name == "plain text to TLS":
        yield secure.address, None
    elif name == "TLS to plain text":
        yield f"localhost:{plain.address.rpartition(':')[2]}", right
    elif name == "expired certificate":
        yield start(authority.server("expired", expired=True)).address, right
    else:
        yield start(authority.server("named", hosts=["example.org"])).address, right


MISTAKES = {
    "another CA": "not signed by a CA that this client trusts: give the right one (--tls-ca",
    "default roots": "not signed by a CA that this client trusts: give the right one (--tls-ca",
    "plain text to TLS": "does the server speak TLS (--tls or --tls-ca FILE)?",
    "TLS to plain text": "does not speak TLS: leave TLS out, or start the server with --tls-cert",
    "expired certificate": "has expired: it must be renewed",
    "another host": "is for another name: use a host that stands in it",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_connection_that_does_not_fit_fails_and_the_client_says_what_to_do(
    name: str,
    start: Callable[..., Guarded],
    secure: Guarded,
    strict_server: Server,
    authority: Authority,
    stranger: Authority,
    talking_bundles: Path,
) -> None:
    bundle, hint = talking_bundles / "client", MISTAKES[name]
    found = mistake(name, start, secure, strict_server, authority, stranger)
    with found as (address, tls):
        for _ in range(TIMES):
            no_connection(address, None if tls is None else tls.credentials())
        with Client(address, bundle, tls=tls) as client:
            for call in (client.model_info, client.session):
                with pytest.raises(ConnectionLostError) as caught:
                    call()
                assert caught.value.code is UNAVAILABLE
                assert hint in str(caught.value.hint)

        async def ask() -> None:
            async with AsyncClient(address, bundle, tls=tls) as client:
                with pytest.raises(ConnectionLostError) as caught:
                    await client.session()
                assert hint in str(caught.value.hint)

        asyncio.run(ask())
        options = [] if tls is None else ["--tls-ca", tls.ca] if tls.ca else ["--tls"]
        done = run_tool(
            *("stip_client", "generate", "--server", address, "--bundle", bundle),
            *("--prompt", "w1", *options),
        )
        assert_refused(done, f"no connection to {address}", hint=hint)
        assert done.stdout == ""


def test_a_client_certificate_of_the_right_ca_is_the_callers_identity(
    mutual: Guarded,
    authority: Authority,
    clients: Authority,
    talking_manifest: Manifest,
    talking_bundles: Path,
) -> None:
    alice, bob = clients.client("alice"), clients.client("bob")
    for issued in (alice, bob):
        with connection(mutual.address, trusting(authority.certificate, client=issued)) as channel:
            refused = (
                WireStream(channel).send(open_request(talking_manifest, key_id="wrong")).refusal()
            )
            assert refused.reason == "WRONG_KEY"
        said = f"identity=cert:{issued.cert.stem}"
        eventually(lambda said=said: said in mutual.said)
    tls = TLS(authority.certificate, alice.cert, alice.key)
    with (
        Client(mutual.address, talking_bundles / "client", tls=tls) as client,
        client.session() as session,
        connection(mutual.address, trusting(authority.certificate, client=bob)) as others,
    ):
        session.forward([5, 6, 7])
        session_id = core_of(session).open_request().open.resume_session_id
        assert len(session_id) == 16
        thief = WireStream(others).send(
            open_request(talking_manifest, resume_session_id=session_id)
        )
        assert thief.refusal().reason == "SESSION_GONE"
        assert np.isfinite(session.forward([8])).all()


@pytest.mark.parametrize("shown", ["none", "of another CA", "of the server's CA", "expired"])
def test_who_has_no_client_certificate_of_the_ca_is_refused_at_the_handshake(
    shown: str,
    mutual: Guarded,
    authority: Authority,
    clients: Authority,
    tmp_path: Path,
    talking_bundles: Path,
) -> None:
    certificate = {
        "none": lambda: None,
        "of another CA": lambda: Authority(tmp_path, "clients").client("mallory"),
        "of the server's CA": lambda: authority.client("mallory"),
        "expired": lambda: clients.client("late", expired=True),
    }[shown]()
    before = mutual.said
    for _ in range(TIMES):
        no_connection(mutual.address, trusting(authority.certificate, client=certificate))
    assert "call refused" not in mutual.said.removeprefix(before)
    cert, key = (certificate.cert, certificate.key) if certificate else (None, None)
    with Client(
        mutual.address, talking_bundles / "client", tls=TLS(authority.certificate, cert, key)
    ) as client:
        with pytest.raises(ConnectionLostError) as caught:
            client.session()
        assert "ask for a client certificate (--tls-cert FILE --tls-key" in str(caught.value.hint)


def replace(pair: Issued, new: Issued) -> None:
    """Rename a new pair into its place, the certificate first, as renewals do."""
    for path, source in ((pair.cert, new.cert), (pair.key, new.key)):
        shutil.copy(source, path.with_suffix(".new")).replace(path)


def test_renewed_files_are_taken_up_and_a_broken_pair_keeps_the_old_one(
    start: Callable[..., Guarded],
    authority: Authority,
    stranger: Authority,
    talking_manifest: Manifest,
) -> None:
    old, new = authority.server("renewed"), stranger.server()
    kept = Issued(old.cert.with_suffix(".kept"), old.key.with_suffix(".kept.key"))
    replace(kept, old)
    server = start(old)
    with connection(server.address, trusting(authority.certificate)) as channel:
        stream = WireStream(channel).send(open_request(talking_manifest), step_request(0, ROWS))
        stream.opened()
        stream.result()
        for turn in range(TIMES):
            pair, ca = ((new, stranger), (kept, authority))[turn % 2]
            other = (authority, stranger)[turn % 2]
            replace(old, pair)
            with connection(server.address, trusting(ca.certificate)) as renewed:
                model_info(renewed)
            no_connection(server.address, trusting(other.certificate))
        for broken in (b"", b"no PEM", new.cert.read_bytes()[:200]):
            old.cert.write_bytes(broken)
            with connection(server.address, trusting(authority.certificate)) as still:
                model_info(still)
        old.cert.unlink()
        with connection(server.address, trusting(authority.certificate)) as still:
            model_info(still)
        eventually(lambda: server.said.count("the certificate loaded before stays in use") == 4)
        # connections from before the renewals go on
        assert stream.send(step_request(3, ROWS)).result().length == 6


def test_no_handshake_fails_while_files_are_being_renewed(
    start: Callable[..., Guarded], authority: Authority, tmp_path: Path
) -> None:
    next_authority = Authority(tmp_path, "next")
    served, new = authority.server("busy"), next_authority.server()
    kept = Issued(served.cert.with_suffix(".kept"), served.key.with_suffix(".kept.key"))
    replace(kept, served)
    server = start(served)
    trust = trusting(authority.certificate, next_authority.certificate)
    stop = Event()

    def renew() -> None:
        while not stop.is_set():
            for pair in (new, kept):
                replace(served, pair)

    renewing = Thread(target=renew)
    renewing.start()
    try:
        for _ in range(RENEWALS):
            with connection(server.address, trust) as channel:
                model_info(channel)
    finally:
        stop.set()
        renewing.join()
