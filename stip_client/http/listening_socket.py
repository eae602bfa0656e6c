"""The socket that the gateway or the page listens on; taken before anything slow is imported."""

from __future__ import annotations

import ipaddress
import socket

from stip_client.errors import ClientError


class ListenError(ClientError):
    """There is no listening where it was asked for."""


def listening_socket(
    host: str, port: int, *, unless_local: ListenError | None = None
) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises ListenError where it cannot be had, and `unless_local` where other machines reach it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"--host {host}: not an address of this machine") from error
    if unless_local is not None and not ipaddress.ip_address(address[0]).is_loopback:
        raise unless_local
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="choose another --port; 0 takes a free one",
        ) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket, path: str = "/") -> str:
    """Where it is to be found."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"
