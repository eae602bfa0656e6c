"""The client's errors, and the table from a gRPC status to an error."""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from stip.v1.errors_pb2 import ErrorReason


class ClientError(Exception):
    """Base of every error of this package.

    `hint`, if set, says what to do about it. The other three are set if the server reported the
    error: `code` is its gRPC status, `reason` the name of an ErrorReason of stip.v1 (or a newer
    one), and `retry_after` the seconds after which the caller should try again.
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
    """The server does not know the caller: the token is missing, unknown or revoked."""

    hint = "give the token that the server's operator made for you (--token-file or STIP_TOKEN)"


class ServerBusyError(ClientError):
    """The server is full. If `retry_after` is None, trying again cannot help."""

    hint = "try again later, or wait for a free session (--wait SECONDS)"


class SessionLostError(ClientError):
    """The session no longer exists: it was closed, has expired, or was lost in a failure."""


class HidesNothingWarning(UserWarning):
    """The bundle's scheme is none: the client masks nothing."""


class SecretFilePermissionWarning(UserWarning):
    """Users other than its owner can read a file with a token or a TLS key."""


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
# Reasons that have an error of their own, whatever their status.
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
# grpc.aio's text for a write on a connection that has just broken, before it knows the status.
BROKEN_WRITE = "Internal error from Core"


def from_rpc_error(error: grpc.RpcError, target: str) -> ClientError:
    """Convert a failed call. A status that is in no table becomes a ServerError."""
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
        kind = RequestError  # gRPC itself: the message is too large for the server
    if code is grpc.StatusCode.INTERNAL and (error.details() or "").startswith(BROKEN_WRITE):
        kind = ConnectionLostError
    message = error.details() or code.name
    hint = None
    if kind is ConnectionLostError and reason:  # the server itself has answered
        hint = "try again in a while, or another server"
    elif kind is ConnectionLostError:
        message = f"no connection to {target}: {message}"
    return kind(message, hint=hint, code=code, reason=reason, retry_after=retry_after)
