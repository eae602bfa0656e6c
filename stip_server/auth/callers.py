"""Identifies the caller: by a bearer token, by a client certificate, or as anonymous.

Knows no session and no network. It reads the metadata and the auth context of a call.
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
    """The part of a gRPC servicer context (of grpc.aio too) that identifies the caller."""

    def invocation_metadata(self) -> Metadata | None: ...

    def auth_context(self) -> AuthContext: ...


@dataclass(frozen=True)
class Caller:
    """A caller. Two callers with the same identity are equal, even if their tokens differ.

    `identity` is "token:NAME", "cert:NAME" or "anonymous": a certificate and a token of the same
    name are two identities. `digest` is the SHA-256 digest of the token, if one was used.
    """

    identity: str
    digest: bytes | None = field(default=None, repr=False, compare=False)


class Authenticator:
    """Identifies callers.

    With `tokens`, every call must carry one of them, and only the token decides the identity.
    Without tokens, but with `certificates`, the client certificate decides it.
    Without both, every caller is anonymous.
    """

    def __init__(self, tokens: TokenFile | None = None, *, certificates: bool = False) -> None:
        self._tokens = tokens
        self._certificates = certificates

    @property
    def credential(self) -> str:
        """What callers must present: "token", "certificate" or "nothing"."""
        if self._tokens is not None:
            return "token"
        return "certificate" if self._certificates else "nothing"

    def identify(self, context: CallContext) -> Caller:
        """Identify the caller of a call. Raises ServiceError."""
        return self.caller_of(context.invocation_metadata() or (), context.auth_context())

    def caller_of(self, metadata: Metadata, auth_context: AuthContext) -> Caller:
        """Identify a caller from metadata and auth context. Raises ServiceError."""
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
        """Whether the token that the caller used is still in the token file.

        A certificate is checked only when its connection is made.
        """
        if caller.digest is None or self._tokens is None:
            return True
        name = caller.identity.removeprefix("token:")
        return self._tokens.is_token_of(name, caller.digest)

    def is_gone(self, identity: str) -> bool:
        """Whether no caller can have this identity any more: no token has its name."""
        if self._tokens is None:
            return False
        return not self._tokens.has_name(identity.removeprefix("token:"))

    def reload_if_changed(self) -> bool:
        """Reload a changed token file. Returns whether tokens may have changed. Raises nothing."""
        return self._tokens is not None and self._tokens.reload_if_changed()


def _bearer_token(metadata: Metadata) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOKEN_MISSING,
            "this server requires a token: authorization: Bearer",
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
    """The first subject alternative name of the client certificate, else its common name."""
    if not list(auth_context.get(CERTIFICATE, ())):
        raise ServiceError(
            ErrorReason.ERROR_REASON_CERTIFICATE_MISSING,
            "this server requires a client certificate",
        )
    names = list(auth_context.get(ALTERNATIVE_NAMES, ())) or list(auth_context.get(COMMON_NAME, ()))
    try:
        name = names[0].decode() if names else ""
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable():  # it appears in logs
        raise ServiceError(
            ErrorReason.ERROR_REASON_CERTIFICATE_UNNAMED,
            "the client certificate has no usable name",
        )
    return name
