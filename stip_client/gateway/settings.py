"""The gateway's settings and their defaults. Imports nothing of the extra: `--help` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GatewaySettings:
    """How the gateway serves.

    `key`: what applications must send; None: anyone who reaches the port by a loopback name may
    use it. `origins`: web pages that may use it, as browsers name them (https://chat.example.org).
    `model_name` None: the model's type and the bundle's fingerprint. `max_concurrent` bounds the
    replies generated at once. `wait`: seconds to wait for a place on a full server.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = None
    origins: Sequence[str] = ()
    model_name: str | None = None
    max_concurrent: int = 16
    wait: float = 0.0
