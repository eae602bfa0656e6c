"""Errors in OpenAI's shape, and the table from ClientError to HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NoReturn

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
    """An HTTP status and OpenAI's error object.

    `param` names the member of the request that is wrong; `code` is for programs.
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


def invalid(param: str | None, message: str, code: str | None = None) -> NoReturn:
    """Refuse a request because of one of its members. Raises ApiError with status 400."""
    raise ApiError(400, message, param=param, code=code)


# The first class that fits counts. OpenAI's clients retry after a 5xx, so errors that a retry
# cannot fix are 4xx.
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
    """The answer to an error of the client library; 503 for one that is not in the table."""
    status, code = next(
        ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)),
        (503, "server_error"),
    )
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    elif isinstance(error, ServerBusyError):
        headers["x-should-retry"] = "false"  # it will never fit; OpenAI's clients obey this
    # the error's hint names options of commands, which applications cannot set
    return ApiError(status, str(error), code=code, headers=headers)
