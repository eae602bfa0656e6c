"""What both clients' channels share."""

from __future__ import annotations

from stip_client.errors import ConnectionLostError

CONNECT_TIMEOUT = 10.0
# What closing a session may take: it is a courtesy to the server, nobody waits for its result.
CLOSE_TIMEOUT = 2.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A peer that froze or vanished without a word is noticed within keepalive_time +
    # keepalive_timeout. A ping that gRPC sent for its own ends (to estimate bandwidth) stands in
    # for a keepalive ping, and would be waited for 60 s.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2500),
    ("grpc.http2.ping_timeout_ms", 2500),
    ("grpc.http2.max_pings_without_data", 0),
)


def timed_out(target: str, seconds: float) -> ConnectionLostError:
    """The error for a server that does not answer in time."""
    return ConnectionLostError(f"no answer from {target} within {seconds:g} s")
