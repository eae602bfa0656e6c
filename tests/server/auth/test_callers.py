"""A caller's identity: from a token, from a certificate, or anonymous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import pytest

from stip_server.auth.callers import Authenticator, Caller
from stip_server.auth.token_file import TokenFile
from stip_server.errors import ServiceError, reason_name

ALICE = "alice-token-0123456789"
BOB = "bob-token-0123456789"
NO_AUTH: Mapping[str, Sequence[bytes]] = {"transport_security_type": [b"insecure"]}


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {token}")]


def certificate(
    common_name: bytes = b"alice", *alternative: bytes
) -> Mapping[str, Sequence[bytes]]:
    """The auth context that gRPC makes of a client certificate."""
    context = {"x509_pem_cert": [b"-----BEGIN"], "x509_common_name": [common_name]}
    return context | ({"x509_subject_alternative_name": list(alternative)} if alternative else {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_text(f"alice {ALICE}\nbob {BOB}\n")
    return path


@pytest.fixture
def with_tokens(path: Path) -> Authenticator:
    return Authenticator(TokenFile(path))


@pytest.mark.parametrize(
    "value", [f"Bearer {ALICE}", f"bearer {ALICE}", f"BEARER  {ALICE}", f"Bearer {ALICE} "]
)
def test_a_token_names_its_caller(value: str, with_tokens: Authenticator) -> None:
    assert with_tokens.caller_of([("authorization", value)], NO_AUTH).identity == "token:alice"


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", ALICE)],
        [("authorization", f"Basic {ALICE}")],
        [("authorization", f"Bearer {ALICE}".encode())],
        [("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}")],
        [("x-authorization", f"Bearer {ALICE}")],
    ],
    ids=str,
)
def test_a_call_without_one_bearer_token_is_refused(
    metadata: list[tuple[str, str | bytes]], with_tokens: Authenticator
) -> None:
    with pytest.raises(ServiceError) as caught:
        with_tokens.caller_of(metadata, NO_AUTH)
    assert reason_name(caught.value.reason) == "TOKEN_MISSING"
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert ALICE not in str(caught.value)


@pytest.mark.parametrize("token", [ALICE[:-1], ALICE + "x", ALICE.upper(), "alice", "ä" * 20])
def test_an_unknown_token_is_refused_and_not_shown(token: str, with_tokens: Authenticator) -> None:
    with pytest.raises(ServiceError) as caught:
        with_tokens.caller_of(bearer(token), NO_AUTH)
    assert reason_name(caught.value.reason) == "TOKEN_UNKNOWN"
    assert token not in f"{caught.value!r}"


def test_a_token_is_wanted_of_those_with_a_certificate_too(path: Path) -> None:
    both = Authenticator(TokenFile(path), certificates=True)
    with pytest.raises(ServiceError, match="token"):
        both.caller_of([], certificate())
    assert both.caller_of(bearer(BOB), certificate()).identity == "token:bob"


@pytest.mark.parametrize(
    ("auth_context", "identity"),
    [
        (certificate(b"alice"), "cert:alice"),
        (certificate(b"alice", b"spiffe://x/y", b"z.example"), "cert:spiffe://x/y"),
        (certificate("Jürgen".encode()), "cert:Jürgen"),
    ],
)
def test_without_tokens_the_certificate_is_the_identity(
    auth_context: Mapping[str, Sequence[bytes]], identity: str
) -> None:
    assert Authenticator(certificates=True).caller_of([], auth_context).identity == identity


@pytest.mark.parametrize(
    ("auth_context", "reason"),
    [
        (NO_AUTH, "CERTIFICATE_MISSING"),
        (certificate(b""), "CERTIFICATE_UNNAMED"),
        (certificate(b"\xff"), "CERTIFICATE_UNNAMED"),
        (certificate(b"a\nb"), "CERTIFICATE_UNNAMED"),
        (certificate(b"alice", b""), "CERTIFICATE_UNNAMED"),
        ({"x509_pem_cert": [b"-----BEGIN"]}, "CERTIFICATE_UNNAMED"),
        ({"x509_common_name": [b"alice"]}, "CERTIFICATE_MISSING"),
    ],
    ids=str,
)
def test_a_certificate_that_names_nobody_is_refused(
    auth_context: Mapping[str, Sequence[bytes]], reason: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        Authenticator(certificates=True).caller_of([], auth_context)
    assert reason_name(caught.value.reason) == reason


def test_with_neither_everybody_is_anonymous() -> None:
    assert Authenticator().caller_of(bearer(ALICE), NO_AUTH) == Caller("anonymous")
    assert Authenticator().caller_of([], certificate()) == Caller("anonymous")


def test_a_certificate_and_a_token_of_one_name_are_two_callers(
    with_tokens: Authenticator,
) -> None:
    by_token = with_tokens.caller_of(bearer(ALICE), NO_AUTH)
    by_certificate = Authenticator(certificates=True).caller_of([], certificate(b"alice"))
    tricky = Authenticator(certificates=True).caller_of([], certificate(b"token:alice"))
    assert len({by_token.identity, by_certificate.identity, tricky.identity}) == 3


def test_another_token_of_the_same_name_is_the_same_caller(path: Path) -> None:
    path.write_text(f"alice {ALICE}\nalice {BOB}\n")
    authenticator = Authenticator(TokenFile(path))
    first, second = (authenticator.caller_of(bearer(token), NO_AUTH) for token in (ALICE, BOB))
    assert first == second and hash(first) == hash(second)


def test_a_caller_is_valid_until_its_token_is_removed(
    path: Path, with_tokens: Authenticator
) -> None:
    alice, bob = (with_tokens.caller_of(bearer(token), NO_AUTH) for token in (ALICE, BOB))
    path.write_text(f"bob {BOB}\nalice another-token-of-alice\n")
    assert with_tokens.still_valid(alice)  # nothing has been reloaded yet
    assert with_tokens.reload_if_changed()
    assert not with_tokens.still_valid(alice)
    assert with_tokens.still_valid(bob)


def test_callers_without_tokens_stay_valid() -> None:
    for authenticator in (Authenticator(), Authenticator(certificates=True)):
        caller = authenticator.caller_of([], certificate())
        assert not authenticator.reload_if_changed()
        assert authenticator.still_valid(caller)


def test_no_repr_shows_a_token_or_its_digest(with_tokens: Authenticator) -> None:
    caller = with_tokens.caller_of(bearer(ALICE), NO_AUTH)
    assert repr(caller) == "Caller(identity='token:alice')"
    assert ALICE not in repr(with_tokens)


def test_identify_reads_a_call_context(with_tokens: Authenticator) -> None:
    class Context:
        def __init__(self, metadata: list[tuple[str, str | bytes]] | None) -> None:
            self.invocation_metadata: Callable[[], object] = lambda: metadata
            self.auth_context = lambda: NO_AUTH

    assert with_tokens.identify(Context(bearer(BOB))).identity == "token:bob"
    with pytest.raises(ServiceError):
        with_tokens.identify(Context(None))
