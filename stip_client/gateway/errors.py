"""Errors in OpenAI's shape, and the one table from a ClientError to an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from starlette.responses import JSONResponse

from stip_client.errors import (
    BundleError,
    ClientError,
    ConnectionLostError,
    ContextOverflowError,
    CredentialsError,
    RequestError,
    ServerBusyError,
    UnauthenticatedError,
    WrongKeyError,
)

INVALID_REQUEST = "invalid_request_error"
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """What is answered in place of a reply: a status and OpenAI's error object.

    `param` names the member of the request that is wrong, `code` is for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer's body, and the data of the event that ends a stream."""
        return {
            "error": {
                "message": str(self),
                "type": TYPES.get(self.status, INVALID_REQUEST),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


# The first class that fits counts. Errors that asking again cannot mend are no 5xx, which
# OpenAI's clients answer by asking again.
_STATUSES: tuple[tuple[type[ClientError], int, str | None], ...] = (
    (ContextOverflowError, 400, "context_length_exceeded"),
    (WrongKeyError, 400, "wrong_bundle"),
    (RequestError, 400, None),
    (BundleError, 400, "bundle_error"),
    (UnauthenticatedError, 401, "server_refuses_gateway"),
    (CredentialsError, 401, "server_refuses_gateway"),
    (ServerBusyError, 429, "server_busy"),
    (ConnectionLostError, 503, "server_unreachable"),
)


def from_client_error(error: ClientError) -> ApiError:
    """The answer for an error of the client library; any that is not in the table is a 503."""
    status, code = next(
        ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)),
        (503, "server_error"),
    )
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    elif isinstance(error, ServerBusyError):
        headers["x-should-retry"] = "false"  # it will never fit; OpenAI's clients heed this
    # hints of the library name options of commands: they are for whoever runs the gateway
    return ApiError(status, str(error), code=code, headers=headers)
