"""Host headers that name this machine.

Starlette's TrustedHostMiddleware cannot replace this: it knows fixed names only, not all of
127.0.0.0/8, and answers 400 in plain text, where the gateway answers 403 in OpenAI's shape.
"""

from __future__ import annotations

import ipaddress


def is_loopback_name(host: str) -> bool:
    """Whether a Host header, with or without a port, names this machine and no other."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.removeprefix("[").removesuffix("]").removesuffix(".")
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
