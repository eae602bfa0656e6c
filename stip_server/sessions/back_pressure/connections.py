"""Ends connections that are gRPC's. Knows no protocol and no session.

gRPC's Python server can neither cancel a call nor close a connection from its side: a call whose
client does not read keeps what was last sent, however it is ended. So the socket is shut down under
gRPC, which then ends every call on it, as if the client had gone.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

_PEER = re.compile(r"ipv[46]:\[?([^\]]+)\]?:(\d+)")
Address = tuple[IPv4Address | IPv6Address, int]


def cut_off(peer: str) -> bool:
    """Shut down the connection of a peer as gRPC names it: "ipv4:127.0.0.1:50000", or
    "ipv6:%5B::1%5D:50000". Whether there was one."""
    wanted = _of_peer(peer)
    return _shut_down(lambda _, remote: remote == wanted) > 0


def cut_off_others(port: int, staying: Collection[str]) -> int:
    """Shut down every connection to a port of ours but those of some peers; their number."""
    kept = {_of_peer(peer) for peer in staying}
    return _shut_down(lambda local, remote: local[1] == port and remote not in kept)


def _shut_down(chosen: Callable[[Address, Address], bool]) -> int:
    """Shut down the connections that are `chosen` by their local and remote addresses."""
    count = 0
    for connection in _sockets():
        with connection, suppress(OSError, _NoAddressError):  # not connected, or not any more
            if chosen(_of(connection.getsockname()), _of(connection.getpeername())):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _sockets() -> Iterator[socket.socket]:
    """Every socket that the process has open, as a duplicate, to be closed; none where the process
    has no files left to look at them."""
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            try:
                # a duplicate: gRPC may close its own, and open something else under the same number
                descriptor = os.dup(int(name))
            except OSError:
                continue  # what listed the folder, or closed meanwhile
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                # the widest family that it can be; given, so that the socket is not asked for it
                yield socket.socket(
                    socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, descriptor
                )
            else:
                os.close(descriptor)


class _NoAddressError(Exception):
    """Not an address of TCP."""


def _of(address: object) -> Address:
    if not (isinstance(address, tuple) and isinstance(address[0], str)):
        raise _NoAddressError
    return _normal(address[0]), int(address[1])


def _of_peer(peer: str) -> Address | None:
    match = _PEER.fullmatch(unquote(peer))
    with suppress(_NoAddressError):
        return None if match is None else (_normal(match[1]), int(match[2]))
    return None


def _normal(host: str) -> IPv4Address | IPv6Address:
    """Without its zone; one of IPv4 that came in over IPv6 as the former."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        raise _NoAddressError from None
    return getattr(address, "ipv4_mapped", None) or address
