"""Which combinations of address, TLS and authentication are accepted."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from stip_server.auth.exposure import check_exposure, check_tls_options
from stip_server.errors import StartError

FILE = Path("x")
LOOPBACK = ["127.0.0.1", "127.255.0.3", "::1", "localhost", "LOCALHOST"]
EXPOSED = ["0.0.0.0", "::", "", "192.0.2.1", "10.0.0.1", "fe80::1", "128.0.0.1", "127.0.0.1.nip.io"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_may_be_open(host: str) -> None:
    for tls, authenticated in product((False, True), repeat=2):
        check_exposure(host, tls=tls, authenticated=authenticated, insecure=False)


@pytest.mark.parametrize("host", EXPOSED)
@pytest.mark.parametrize(
    ("tls", "authenticated", "says", "unsaid"),
    [
        (False, False, ["plain text", "anyone", "--tls-cert", "--token-file", "--client-ca"], []),
        (True, False, ["anyone", "--token-file", "--client-ca"], ["plain text", "--tls-cert"]),
        (False, True, ["plain text", "--tls-cert"], ["anyone", "--token-file"]),
    ],
)
def test_elsewhere_both_tls_and_authentication_are_needed(
    host: str, tls: bool, authenticated: bool, says: list[str], unsaid: list[str]
) -> None:
    with pytest.raises(StartError) as caught:
        check_exposure(host, tls=tls, authenticated=authenticated, insecure=False)
    text = f"{caught.value} {caught.value.hint}"
    assert all(part in text for part in [*says, "--insecure", host])
    assert not any(part in text for part in unsaid)
    check_exposure(host, tls=tls, authenticated=authenticated, insecure=True)
    check_exposure(host, tls=True, authenticated=True, insecure=False)


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "says"),
    [
        (FILE, None, None, "--tls-cert needs --tls-key"),
        (None, FILE, None, "--tls-key needs --tls-cert"),
        (None, None, FILE, "--client-ca needs --tls-cert"),
        (None, FILE, FILE, "--tls-key needs --tls-cert"),
    ],
)
def test_options_that_need_each_other(
    cert: Path | None, key: Path | None, client_ca: Path | None, says: str
) -> None:
    with pytest.raises(StartError, match=says):
        check_tls_options(cert, key, client_ca)


def test_options_that_are_complete() -> None:
    check_tls_options(None, None, None)
    check_tls_options(FILE, FILE, None)
    check_tls_options(FILE, FILE, FILE)
