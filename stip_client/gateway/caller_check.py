"""Who may use the gateway: callers with its key, and no web page except those named.

A web page can send requests to this machine from its visitor's browser. The browser names the page
in Origin or Sec-Fetch-Site. A page whose name was made to resolve to 127.0.0.1 (DNS rebinding)
shows in the Host header.
"""

from __future__ import annotations

from collections.abc import Collection
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from stip_client.gateway.errors import ApiError
from stip_client.http.loopback import is_loopback_name

# Answered without a key: they reveal nothing, and watchdogs have no key.
OPEN_PATHS = ("/health",)


class CallerCheck:
    """An ASGI middleware that refuses requests before the routes see them.

    `key` and `origins` are those of GatewaySettings.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, origins: Collection[str]) -> None:
        self._app = app
        self._key = None if key is None else f"Bearer {key}".encode()
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        else:
            foreign = origin not in self._origins
        if foreign:
            raise ApiError(403, "requests of web pages are refused", code="origin_not_allowed")
        if self._key is None:
            if not is_loopback_name(headers.get("host", "")):
                raise ApiError(
                    403, "the Host header names another machine", code="host_not_allowed"
                )
        elif path not in OPEN_PATHS and not self._is_preflight(method, headers):
            given = headers.get("authorization", "").encode("latin-1")
            if not compare_digest(given, self._key):
                raise ApiError(
                    401,
                    "the API key is missing or wrong",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    @staticmethod
    def _is_preflight(method: str, headers: Headers) -> bool:
        # a browser asks without the key whether it may send it; the answer reveals nothing
        return method == "OPTIONS" and "access-control-request-method" in headers
