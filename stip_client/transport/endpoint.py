"""The address of a server, and the options and credentials of channels to it."""

from __future__ import annotations

import ipaddress
from typing import Any

import grpc

from stip_client.errors import (
    ClientError,
    ConnectionLostError,
    RequestError,
    UnauthenticatedError,
    from_rpc_error,
)
from stip_client.transport.credentials import TLS, check_token

CONNECT_TIMEOUT = 10.0
# Seconds for one answer: a part of a long prompt on a slow machine, queued behind others. Keepalive
# finds out sooner whether the server is there.
ANSWER_TIMEOUT = 300.0
# Seconds for which a lost session is tried again.
PATIENCE = 30.0
# Seconds that closing a session may take; nobody needs its result.
CLOSE_TIMEOUT = 2.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A frozen or vanished peer is noticed within keepalive_time + keepalive_timeout. gRPC's own
    # pings (to estimate bandwidth) replace keepalive pings, and have a time-out of 60 s by default.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2500),
    ("grpc.http2.ping_timeout_ms", 2500),
    ("grpc.http2.max_pings_without_data", 0),
    # The client has its own back-off: a channel must not wait longer.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# Through a proxy, a loopback address would be the proxy's own machine.
NO_PROXY = (("grpc.enable_http_proxy", 0),)

# gRPC's words for a connection that was never made (not for one that broke), and hints. The first
# fragment found in the message counts. "Socket closed" has several causes.
CANNOT_CONNECT = "failed to connect"
_WRONG_CA = (
    "the server's certificate is not signed by a CA that this client trusts: "
    "give the right one (--tls-ca FILE)"
)
_TLS_HINTS = (
    (
        "WRONG_VERSION_NUMBER",
        "the server does not speak TLS: leave TLS out, or start the server with --tls-cert",
    ),
    ("certificate has expired", "the server's certificate has expired: it must be renewed"),
    ("CERTIFICATE_VERIFY_FAILED", _WRONG_CA),
    ("certificate signature failure", _WRONG_CA),  # a CA of the same name, with another key
    (
        "Hostname Verification Check failed",
        "the server's certificate is for another name: use a host that stands in it",
    ),
    (
        "Socket closed",
        "does the server ask for a client certificate (--tls-cert FILE --tls-key FILE), "
        "and is this one signed by its CA and not expired?",
    ),
)
_PLAIN_TEXT_HINTS = (
    (
        "Socket closed",
        "does the server speak TLS (--tls or --tls-ca FILE)? is the address right?",
    ),
)


class Endpoint:
    """One server of one client, shared by the client's sessions.

    `metadata` goes with every call. It holds the token, so no repr shows it. Raises RequestError if
    a token would travel in plain text to another machine, unless `insecure`, and CredentialsError
    for TLS files or a token that cannot be used.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self.target = target
        self.connect_timeout = connect_timeout
        self.metadata: tuple[tuple[str, str], ...] = ()
        if token is not None:
            if tls is None and not insecure and not is_loopback(target):
                raise RequestError(
                    f"the token would travel to {target or 'an empty address'} in plain text",
                    hint="use TLS (--tls or --tls-ca FILE), or --insecure to send it all the same",
                )
            self.metadata = (("authorization", f"Bearer {check_token(token)}"),)
        self._credentials = None if tls is None else tls.credentials()

    def channel(self, api: Any) -> Any:
        """A channel of `api`, which is the module grpc or grpc.aio."""
        options = CHANNEL_OPTIONS + (NO_PROXY if is_loopback(self.target) else ())
        if self._credentials is None:
            return api.insecure_channel(self.target, options=options)
        return api.secure_channel(self.target, self._credentials, options=options)

    def error(self, error: grpc.RpcError) -> ClientError:
        """The ClientError for a call's status, with a hint that fits the channel."""
        found = from_rpc_error(error, self.target)
        if isinstance(found, ConnectionLostError) and not found.reason:
            hints = _PLAIN_TEXT_HINTS if self._credentials is None else _TLS_HINTS
            message = str(found)
            if CANNOT_CONNECT in message:
                found.hint = next((hint for part, hint in hints if part in message), found.hint)
        elif isinstance(found, UnauthenticatedError) and self.metadata:
            found.hint = "the token given is not, or no longer, one that the server knows"
        return found

    def timed_out(self, seconds: float) -> ConnectionLostError:
        """The error for a server that does not answer in time."""
        return ConnectionLostError(f"no answer from {self.target} within {seconds:g} s")

    def __repr__(self) -> str:
        return f"Endpoint({self.target!r})"


def is_loopback(target: str) -> bool:
    """Whether HOST:PORT is certainly this machine."""
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
