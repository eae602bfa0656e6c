"""Cuts off a client whose connection is gRPC's. Knows no protocol and no session.

gRPC's Python server can neither cancel a call nor close a connection from its side: a call whose
client does not read keeps what was last sent, however it is ended. So the socket is shut down under
gRPC, which then ends every call on it, as if the client had gone.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

_PEER = re.compile(r"ipv[46]:\[?([^\]]+)\]?:(\d+)")


def cut_off(peer: str) -> bool:
    """Shut down the connection of a peer as gRPC names it: "ipv4:127.0.0.1:50000", or
    "ipv6:%5B::1%5D:50000". Whether there was one."""
    match = _PEER.fullmatch(unquote(peer))
    if match is None:
        return False
    wanted = _address(match[1]), int(match[2])
    found = False
    for connection in _connections():
        with connection, suppress(OSError):  # one that is not connected, or not any more
            host, port = connection.getpeername()[:2]
            if (_address(host), port) == wanted:
                connection.shutdown(socket.SHUT_RDWR)
                found = True
    return found


def _address(host: str) -> IPv4Address | IPv6Address:
    """Without its zone; one of IPv4 that came in over IPv6 as the former."""
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _connections() -> Iterator[socket.socket]:
    """Every TCP socket that the process has open, as a duplicate, to be closed."""
    for name in os.listdir("/dev/fd"):
        try:
            # a duplicate: gRPC may close its own, and open something else under the same number
            descriptor = os.dup(int(name))
        except OSError:
            continue  # what listed the folder, or closed meanwhile
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            continue
        connection = socket.socket(fileno=descriptor)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            yield connection
        else:
            connection.close()
