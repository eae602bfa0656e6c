"""The socket that the gateway or the page listens on. Bind it before slow imports."""

from __future__ import annotations

import argparse
import ipaddress
import socket

from stip_client.errors import ClientError


class ListenError(ClientError):
    """The address cannot be listened on."""


def listening_socket(
    host: str, port: int, *, unless_local: ListenError | None = None
) -> socket.socket:
    """A listening socket; port 0 takes a free port.

    Raises ListenError if the address cannot be bound. Raises `unless_local` if it is not a loopback
    address.
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
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket, path: str = "/") -> str:
    """The URL of a path on a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


def port(text: str) -> int:
    """The type of --port: 0 to 65535."""
    if text.isascii() and text.isdecimal() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port")
