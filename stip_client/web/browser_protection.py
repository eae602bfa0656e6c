"""What protects the page in a browser: security headers, and a check of the name it is asked by.

Gradio's frontend could load fonts and scripts from other hosts. The content security policy makes
the browser refuse that, in any release of Gradio.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stip_client.http.loopback import is_loopback_name

# Gradio's HTML component compiles its template ('unsafe-eval'), and its page has inline scripts.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class BrowserProtection:
    """An ASGI middleware that adds the headers to every response.

    If `local` is true it refuses requests by any name that is not this machine's: a web page whose
    name was made to resolve to 127.0.0.1 (DNS rebinding) could send them.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._local and not is_loopback_name(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse("this page is served to this machine only\n", 403)
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["referrer-policy"] = "no-referrer"
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_with_headers)
