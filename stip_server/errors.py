"""The server's errors: StartError stops the start, ServiceError answers a caller."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from stip.v1.errors_pb2 import ErrorReason
from stip_model.errors import StipError


class StartError(StipError):
    """The server cannot start."""


# The gRPC status of every reason (SPEC.md, section 7), under the names of both enums.
_REASONS = {
    "INVALID_ARGUMENT": """
        MALFORMED WRONG_DTYPE WRONG_SHAPE WRONG_BYTE_COUNT TOO_MANY_ROWS TOO_MANY_BYTES NOT_FINITE
        WRONG_LOGITS_ROWS TOP_K_TOO_LARGE TOO_MANY_LOGITS TOP_K_WITHOUT_HEAD NO_FORK_SOURCE
        RESUME_AND_FORK
    """,
    "OUT_OF_RANGE": "POSITION_BEYOND_END CONTEXT_OVERFLOW",
    "FAILED_PRECONDITION": "WRONG_HEAD WRONG_KEY WRONG_BUNDLE NOT_OPEN NOT_A_STEP ECHO_NOT_ALLOWED",
    "RESOURCE_EXHAUSTED": """
        TOO_MANY_SESSIONS KV_MEMORY CALLER_SESSIONS CALLER_KV_MEMORY TOO_MANY_CONNECTIONS
        TOO_MANY_STREAMS ANSWER_MEMORY
    """,
    "NOT_FOUND": "SESSION_GONE EVICTED",
    "DEADLINE_EXCEEDED": "OPEN_TIMEOUT",
    "ABORTED": "TAKEN_OVER CANCELLED",
    "UNAUTHENTICATED": """
        TOKEN_MISSING TOKEN_UNKNOWN TOKEN_REVOKED CERTIFICATE_MISSING CERTIFICATE_UNNAMED
    """,
    "UNAVAILABLE": "DRAINING ENGINE_STALLED ENGINE_DEAD",
    "INTERNAL": "ENGINE_FAILED CACHE_LOST READER_FAILED",
}
STATUS_CODES: Mapping[int, grpc.StatusCode] = {
    ErrorReason.Value(f"ERROR_REASON_{reason}"): grpc.StatusCode[code]
    for code, reasons in _REASONS.items()
    for reason in reasons.split()
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


def reason_name(reason: int) -> str:
    """The name of a reason in google.rpc.ErrorInfo, in logs and in metrics."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
