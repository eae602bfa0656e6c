"""Who is calling: the name that a token stands for, or a client certificate's, or anonymous.

Knows nothing of sessions and needs no network: it reads a call's metadata and auth context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stip.v1.errors_pb2 import ErrorReason
from stip_server.auth.token_file import TokenFile
from stip_server.errors import ServiceError

Metadata = Iterable[tuple[str, str | bytes]]
AuthContext = Mapping[str, Iterable[bytes]]

ANONYMOUS = "anonymous"
# gRPC's names in the auth context of a call with a client certificate
CERTIFICATE = "x509_pem_cert"
ALTERNATIVE_NAMES = "x509_subject_alternative_name"
COMMON_NAME = "x509_common_name"


class CallContext(Protocol):
    """The part of a gRPC servicer context, grpc.aio's as well, that tells who calls."""

    def invocation_metadata(self) -> Metadata | None: ...

    def auth_context(self) -> AuthContext: ...


@dataclass(frozen=True)
class Caller:
    """Who is calling. Callers are equal who have the same identity, whichever token they used.

    `identity` is "token:NAME", "cert:NAME" or "anonymous", so that a certificate and a token of
    one name are two identities. `digest` is the SHA-256 digest of the token, if one was used.
    """

    identity: str
    digest: bytes | None = field(default=None, repr=False, compare=False)


class Authenticator:
    """Tells who is calling.

    `tokens`: every call must bring one of them, and it alone makes the identity.
    `certificates`: the server demands client certificates; without `tokens` they are the identity.
    With neither, every caller is anonymous.
    """

    def __init__(self, tokens: TokenFile | None = None, *, certificates: bool = False) -> None:
        self._tokens = tokens
        self._certificates = certificates

    @property
    def demands(self) -> str:
        """What callers must bring: "token", "certificate" or "nothing"."""
        if self._tokens is not None:
            return "token"
        return "certificate" if self._certificates else "nothing"

    def identify(self, context: CallContext) -> Caller:
        """The caller of a call. Raises ServiceError."""
        return self.caller_of(context.invocation_metadata() or (), context.auth_context())

    def caller_of(self, metadata: Metadata, auth_context: AuthContext) -> Caller:
        """The caller of a call with this metadata and auth context. Raises ServiceError."""
        if self._tokens is not None:
            found = self._tokens.find(_bearer_token(metadata))
            if found is None:
                raise ServiceError(
                    ErrorReason.ERROR_REASON_TOKEN_UNKNOWN, "the token is not one this server knows"
                )
            name, digest = found
            return Caller(f"token:{name}", digest)
        if self._certificates:
            return Caller(f"cert:{_certificate_name(auth_context)}")
        return Caller(ANONYMOUS)

    def still_valid(self, caller: Caller) -> bool:
        """False once the token with which the caller came no longer counts.

        A certificate is checked when its connection is made, and not again.
        """
        if caller.digest is None or self._tokens is None:
            return True
        name = caller.identity.removeprefix("token:")
        return self._tokens.still_names(name, caller.digest)

    def is_gone(self, identity: str) -> bool:
        """Whether nobody can come as this identity any more: no token has its name."""
        if self._tokens is None:
            return False
        return not self._tokens.has_name(identity.removeprefix("token:"))

    def reload_if_changed(self) -> bool:
        """Take up a changed token file; whether tokens may have changed. Raises nothing."""
        return self._tokens is not None and self._tokens.reload_if_changed()


def _bearer_token(metadata: Metadata) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOKEN_MISSING,
            "this server wants a token: authorization: Bearer",
        )
    value = values[0]
    scheme, _, token = value.partition(" ") if isinstance(value, str) else ("", "", "")
    token = token.strip(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOKEN_MISSING, "the authorization is not one Bearer token"
        )
    return token


def _certificate_name(auth_context: AuthContext) -> str:
    """The first subject alternative name of a client's certificate, else its common name."""
    if not list(auth_context.get(CERTIFICATE, ())):
        raise ServiceError(
            ErrorReason.ERROR_REASON_CERTIFICATE_MISSING, "this server wants a client certificate"
        )
    names = list(auth_context.get(ALTERNATIVE_NAMES, ())) or list(auth_context.get(COMMON_NAME, ()))
    try:
        name = names[0].decode() if names else ""
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable():  # it will stand in logs
        raise ServiceError(
            ErrorReason.ERROR_REASON_CERTIFICATE_UNNAMED,
            "the client certificate has no usable name",
        )
    return name
