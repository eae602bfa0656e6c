"""What can go wrong for a client, and the one table from a gRPC status to it."""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from stip.v1.errors_pb2 import ErrorReason


class ClientError(Exception):
    """Base of every error of this package.

    `hint`, where there is one, says what to do about it. `code` is the gRPC status of an error
    that the server reported, `reason` its machine-readable name, `retry_after` the seconds after
    which the server says it is worth trying again.
    """

    hint: str | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.hint = hint or type(self).hint
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class BundleError(ClientError):
    """The client bundle is missing, damaged or of another kind."""


class CredentialsError(ClientError):
    """A certificate, a key or a token cannot be used."""


class RequestError(ClientError):
    """The server refuses the request as it is."""


class WrongKeyError(RequestError):
    """The client's key or bundle does not belong to the model that the server serves."""

    hint = "use the client bundle that was converted together with the server's"


class ContextOverflowError(RequestError):
    """The tokens do not fit into the session."""


class UnauthenticatedError(ClientError):
    """The server does not know who is calling: the token is missing, unknown or revoked."""

    hint = "give the token that the server's operator made for you (--token-file or STIP_TOKEN)"


class ServerBusyError(ClientError):
    """The server has no room now; `retry_after` says when it may, None that it never will."""

    hint = "try again later, or let it wait for room (--wait SECONDS)"


class SessionLostError(ClientError):
    """The session no longer exists: it was closed, has expired, or was lost in a failure."""


class HidesNothingWarning(UserWarning):
    """The bundle's scheme is none: what the client sends is not masked."""


class SecretFilePermissionWarning(UserWarning):
    """A file with a token or a TLS key can be read by others than its owner."""


class ConnectionLostError(ClientError):
    """The server cannot be reached, or the connection broke."""

    hint = "is the server running, and is the address right?"


class ServerError(ClientError):
    """The server failed."""


_BY_CODE: dict[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.OUT_OF_RANGE: RequestError,
    grpc.StatusCode.FAILED_PRECONDITION: RequestError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: RequestError,
    grpc.StatusCode.UNIMPLEMENTED: RequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusyError,
    grpc.StatusCode.NOT_FOUND: SessionLostError,
    grpc.StatusCode.ABORTED: SessionLostError,
    grpc.StatusCode.UNAVAILABLE: ConnectionLostError,
    grpc.StatusCode.DEADLINE_EXCEEDED: ConnectionLostError,
    grpc.StatusCode.CANCELLED: ConnectionLostError,
}
_BY_REASON: dict[ErrorReason, type[ClientError]] = {
    ErrorReason.ERROR_REASON_WRONG_KEY: WrongKeyError,
    ErrorReason.ERROR_REASON_WRONG_BUNDLE: WrongKeyError,
    ErrorReason.ERROR_REASON_WRONG_HEAD: WrongKeyError,
    ErrorReason.ERROR_REASON_CONTEXT_OVERFLOW: ContextOverflowError,
    ErrorReason.ERROR_REASON_CACHE_LOST: SessionLostError,
}


def reason_name(reason: ErrorReason) -> str:
    """The name of a reason in google.rpc.ErrorInfo."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


_BY_REASON_NAME = {reason_name(reason): kind for reason, kind in _BY_REASON.items()}
# What grpc.aio says of a write on a connection that has just broken, before it knows the status.
BROKEN_WRITE = "Internal error from Core"


def from_rpc_error(error: grpc.RpcError, target: str) -> ClientError:
    """The ClientError that a call's status stands for; any other status is a ServerError."""
    code: grpc.StatusCode = error.code()
    reason, retry_after = "", None
    status = rpc_status.from_call(cast(grpc.Call, error))
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    kind = _BY_REASON_NAME.get(reason) or _BY_CODE.get(code, ServerError)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not reason:
        kind = RequestError  # gRPC's own: the message is larger than the server takes
    if code is grpc.StatusCode.INTERNAL and (error.details() or "").startswith(BROKEN_WRITE):
        kind = ConnectionLostError
    message = error.details() or code.name
    hint = None
    if kind is ConnectionLostError and reason:  # the server's own words: it was reached
        hint = "try again in a while, or another server"
    elif kind is ConnectionLostError:
        message = f"no connection to {target}: {message}"
    return kind(message, hint=hint, code=code, reason=reason, retry_after=retry_after)
