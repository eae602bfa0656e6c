"""Who may use the gateway: callers with its key, and no web page that was not named.

A web page can send requests to this machine from its visitor's browser. The browser says so in
Origin or Sec-Fetch-Site; a page that has had its own name point at 127.0.0.1 (DNS rebinding) is
known by Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from stip_client.gateway.errors import ApiError

# Answered without a key: they tell nothing about anybody, and watchdogs have none.
OPEN_PATHS = ("/health",)


class CallerCheck:
    """Refuses requests before anything else sees them; an ASGI middleware.

    `key` None: whoever reaches the port may use it, if it calls it by a loopback name.
    `origins`: pages that may, as browsers name them: https://chat.example.org.
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
        elif path not in OPEN_PATHS and not self._preflight(method, headers):
            given = headers.get("authorization", "").encode("latin-1")
            if not compare_digest(given, self._key):
                raise ApiError(
                    401,
                    "the API key is missing or wrong",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    @staticmethod
    def _preflight(method: str, headers: Headers) -> bool:
        # a browser asks without the key whether it may send it; the answer holds nothing else
        return method == "OPTIONS" and "access-control-request-method" in headers


def is_loopback_name(host: str) -> bool:
    """Whether a Host header (with or without a port) names this machine and no other."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.removeprefix("[").removesuffix("]").removesuffix(".")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
