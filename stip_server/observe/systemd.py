"""Tells systemd how the server is, where systemd has started it (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
# both: it may have been too busy to hear the first
WELL = f"{READY}\nWATCHDOG=1"


def notify(state: str) -> None:
    """Send a state to the socket that NOTIFY_SOCKET names; nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract sockets begin with a zero byte
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
    except (BlockingIOError, InterruptedError):
        pass  # it is busy: what it must know it is told again, well before it gives us up
    except OSError as error:
        log.warning("systemd was not told %r, and will be told nothing more: %s", state, error)
        del os.environ["NOTIFY_SOCKET"]
