"""Without TLS and authentication the server listens on loopback addresses only."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from stip.v1.manifest_pb2 import Manifest
from tests.support.certificates import Authority
from tests.support.command_line import assert_refused
from tests.support.parties import run_tool, server_process
from tests.support.servers.guarded import bearer, info_refusal, model_info, trusting, write_tokens
from tests.support.wire.requests import connection

TOKEN = "the-token-of-this-test"
PLAIN, OPEN = "without TLS the wire is plain text", "without tokens or client certificates anyone"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))
any_ipv6 = pytest.param("::", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))


@pytest.fixture
def guards(tmp_path: Path) -> dict[str, Sequence[object]]:
    """Options that guard a server, by name."""
    authority = Authority(tmp_path / "ca")
    pair = authority.server()
    tls = ("--tls-cert", pair.cert, "--tls-key", pair.key)
    token = ("--token-file", write_tokens(tmp_path / "tokens", f"alice {TOKEN}\n"))
    return {
        "nothing": (),
        "TLS": tls,
        "tokens": token,
        "TLS and tokens": (*tls, *token),
        "TLS and certificates": (*tls, "--client-ca", authority.certificate),
    }


# What stands for this machine alone in one place may stand for more in another: a name is not
# looked up, only "localhost" is known.
@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.0.2.1", "ip6-localhost", "localhost.example.org", "127.1"],
)
def test_a_host_that_others_may_reach_is_refused_before_anything_is_loaded(
    host: str, talking_bundles: Path
) -> None:
    command = (
        "stip_server",
        "--model",
        talking_bundles / "server",
        "--port",
        0,
        "--cpu",
        "--host",
        host,
    )
    hint = "--tls-cert FILE --tls-key FILE, and --token-file FILE or --client-ca FILE; or --insec"
    done = run_tool(*command)
    assert_refused(
        done, f"{host or 'an empty host'} can be reached from other", PLAIN, OPEN, hint=hint
    )
    assert done.stdout == "" and "BLAS" not in done.stderr


@pytest.mark.parametrize(
    ("guard", "says", "hint"),
    [
        ("TLS", OPEN, "hint: --token-file FILE or --client-ca FILE; or --insecure"),
        ("tokens", PLAIN, "hint: --tls-cert FILE --tls-key FILE; or --insecure"),
    ],
)
def test_half_a_guard_is_not_enough(
    guard: str, says: str, hint: str, talking_bundles: Path, guards: dict[str, Sequence[object]]
) -> None:
    command = ("stip_server", "--model", talking_bundles / "server", "--port", 0, "--cpu")
    done = run_tool(*command, "--host", "0.0.0.0", *guards[guard])
    assert_refused(done, says, hint=hint)
    assert (PLAIN in done.stderr) != (OPEN in done.stderr)
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ipv6])
def test_a_loopback_address_may_be_open(
    host: str, talking_bundles: Path, talking_manifest: Manifest
) -> None:
    with server_process(talking_bundles / "server", "--host", host) as server:
        shown = f"[{host}]" if ":" in host else host
        assert server.address.startswith(f"{shown}:")
        with connection(server.address) as channel:
            assert model_info(channel).key_id == talking_manifest.key_id


@pytest.mark.parametrize("host", ["0.0.0.0", any_ipv6])
def test_insecure_opens_every_address(
    host: str, talking_bundles: Path, talking_manifest: Manifest
) -> None:
    with server_process(talking_bundles / "server", "--host", host, "--insecure") as server:
        port = server.address.rpartition(":")[2]
        with connection(f"127.0.0.1:{port}") as channel:  # a dual-stack socket where it is ::
            assert model_info(channel).key_id == talking_manifest.key_id


@pytest.mark.parametrize("guard", ["TLS and tokens", "TLS and certificates"])
def test_a_guarded_server_may_listen_everywhere(
    guard: str,
    talking_bundles: Path,
    talking_manifest: Manifest,
    guards: dict[str, Sequence[object]],
    tmp_path: Path,
) -> None:
    client = Authority(tmp_path / "strangers", "strangers").client("mallory")
    trust = trusting(tmp_path / "ca" / "ca.pem", client=client)
    with server_process(talking_bundles / "server", "--host", "0.0.0.0", *guards[guard]) as server:
        address = f"localhost:{server.address.rpartition(':')[2]}"
        with connection(address) as channel:
            assert info_refusal(channel).code is grpc.StatusCode.UNAVAILABLE
        with connection(address, trust) as channel:
            if guard == "TLS and tokens":
                assert info_refusal(channel).reason == "TOKEN_MISSING"
                assert model_info(channel, bearer(TOKEN)).key_id == talking_manifest.key_id
            else:
                assert info_refusal(channel).code is grpc.StatusCode.UNAVAILABLE
