"""Ends gRPC's connections. Knows no protocol and no session.

gRPC's Python server can neither cancel a call nor close a connection. A call whose client does not
read keeps its last message, even after the call has ended. So this module shuts the socket down
underneath gRPC, which then ends every call on it, as if the client had gone.
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
    """Shut down the connection of a peer; return whether there was one.

    gRPC names peers "ipv4:127.0.0.1:50000" or "ipv6:%5B::1%5D:50000".
    """
    wanted = _peer_address(peer)
    return _shut_down(lambda _, remote: remote == wanted) > 0


def cut_off_others(port: int, staying: Collection[str]) -> int:
    """Shut down all connections to a local port except those of the peers `staying`.

    Returns the number of connections shut down.
    """
    kept = {_peer_address(peer) for peer in staying}
    return _shut_down(lambda local, remote: local[1] == port and remote not in kept)


def _shut_down(chosen: Callable[[Address, Address], bool]) -> int:
    """Shut down the connections whose local and remote addresses are `chosen`; return how many."""
    count = 0
    for connection in _sockets():
        with connection, suppress(OSError, _NoAddressError):  # not connected, or closed meanwhile
            if chosen(_address(connection.getsockname()), _address(connection.getpeername())):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _sockets() -> Iterator[socket.socket]:
    """Yield a duplicate of every open socket; the caller closes it.

    Yields none when the process cannot open another file.
    """
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            try:
                # gRPC may close its socket and reuse the number meanwhile
                descriptor = os.dup(int(name))
            except OSError:
                continue  # the listing's own descriptor, or one that was closed meanwhile
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                # a family is given so that Python does not query the socket; IPv6 covers both
                yield socket.socket(
                    socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, descriptor
                )
            else:
                os.close(descriptor)


class _NoAddressError(Exception):
    """The address is not one of TCP."""


def _address(address: object) -> Address:
    if not (isinstance(address, tuple) and isinstance(address[0], str)):
        raise _NoAddressError
    return _ip(address[0]), int(address[1])


def _peer_address(peer: str) -> Address | None:
    match = _PEER.fullmatch(unquote(peer))
    with suppress(_NoAddressError):
        return None if match is None else (_ip(match[1]), int(match[2]))
    return None


def _ip(host: str) -> IPv4Address | IPv6Address:
    """The address without its zone; an IPv4 address mapped into IPv6 as IPv4."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        raise _NoAddressError from None
    return getattr(address, "ipv4_mapped", None) or address
