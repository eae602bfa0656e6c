"""What both clients' channels share."""

from __future__ import annotations

from stip_client.errors import ConnectionLostError

CONNECT_TIMEOUT = 10.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A peer that vanished without a word is noticed within keepalive_time + keepalive_timeout.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2500),
    ("grpc.http2.max_pings_without_data", 0),
)


def connect_timed_out(target: str, seconds: float) -> ConnectionLostError:
    """The error for a server that does not answer the open request."""
    return ConnectionLostError(f"no answer from {target} within {seconds:g} s")
