"""The socket that the page is served on. Knows nothing of Gradio, so that it fails at once."""

from __future__ import annotations

import ipaddress
import socket

from stip_client.errors import ClientError


class PageError(ClientError):
    """The page cannot be served as it was asked to."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises PageError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise PageError(f"--host {host}: not an address of this machine") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise PageError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="choose another --port; 0 takes a free one",
        ) from error
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url(listener: socket.socket) -> str:
    """Where the page is."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
