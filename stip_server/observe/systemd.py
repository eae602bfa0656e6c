"""Notifies systemd of the server's state (sd_notify(3)), if systemd started the server."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
# READY again, since systemd may have been too busy for the first one
ALIVE = f"{READY}\nWATCHDOG=1"


def notify(state: str) -> None:
    """Send a state to the socket that NOTIFY_SOCKET names. Does nothing without that variable."""
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
        pass  # systemd is busy; the next ALIVE comes well before its watchdog fires
    except OSError as error:
        log.warning("cannot notify systemd of %r: %s; no further attempts are made", state, error)
        del os.environ["NOTIFY_SOCKET"]
