"""The server's errors: StartError stops the start, ServiceError answers a caller."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from stip.v1.errors_pb2 import ErrorReason
from stip_model.errors import StipError


class StartError(StipError):
    """The server cannot start."""


# The gRPC status of every reason (SPEC.md, section 7).
STATUS_CODES: Mapping[ErrorReason, grpc.StatusCode] = {
    ErrorReason.ERROR_REASON_MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_WRONG_DTYPE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_WRONG_SHAPE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_WRONG_BYTE_COUNT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_TOO_MANY_ROWS: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_TOO_MANY_BYTES: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_NOT_FINITE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_WRONG_LOGITS_ROWS: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_TOP_K_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_TOO_MANY_LOGITS: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_TOP_K_WITHOUT_HEAD: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_NO_FORK_SOURCE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_RESUME_AND_FORK: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_POSITION_BEYOND_END: grpc.StatusCode.OUT_OF_RANGE,
    ErrorReason.ERROR_REASON_CONTEXT_OVERFLOW: grpc.StatusCode.OUT_OF_RANGE,
    ErrorReason.ERROR_REASON_WRONG_HEAD: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_WRONG_KEY: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_WRONG_BUNDLE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_NOT_OPEN: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_NOT_A_STEP: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_ECHO_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_TOO_MANY_SESSIONS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_KV_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_CALLER_SESSIONS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_CALLER_KV_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_TOO_MANY_CONNECTIONS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_TOO_MANY_STREAMS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_ANSWER_MEMORY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_SESSION_GONE: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_EVICTED: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_OPEN_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_TAKEN_OVER: grpc.StatusCode.ABORTED,
    ErrorReason.ERROR_REASON_CANCELLED: grpc.StatusCode.ABORTED,
    ErrorReason.ERROR_REASON_TOKEN_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_TOKEN_UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_TOKEN_REVOKED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_CERTIFICATE_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_CERTIFICATE_UNNAMED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorReason.ERROR_REASON_DRAINING: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_ENGINE_STALLED: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_ENGINE_DEAD: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_ENGINE_FAILED: grpc.StatusCode.INTERNAL,
    ErrorReason.ERROR_REASON_CACHE_LOST: grpc.StatusCode.INTERNAL,
    ErrorReason.ERROR_REASON_READER_FAILED: grpc.StatusCode.INTERNAL,
}


class ServiceError(Exception):
    """A call ends with a gRPC status (SPEC.md, section 7).

    `field` is the path of the faulty request field, for google.rpc.BadRequest.
    `retry_after`, in seconds, becomes google.rpc.RetryInfo.
    """

    def __init__(
        self,
        reason: ErrorReason,
        message: str,
        *,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = STATUS_CODES[reason]
        self.field = field
        self.retry_after = retry_after


def reason_name(reason: ErrorReason) -> str:
    """The name of a reason in google.rpc.ErrorInfo, in logs and in metrics."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
