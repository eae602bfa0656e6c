"""Cutting off a peer: its connection and no other."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from stip_server.sessions.back_pressure.connections import cut_off, cut_off_others
from tests.support.waiting import PATIENCE


@contextmanager
def connected(listen_on: str, dial: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the server's and the client's."""
    family = socket.AF_INET6 if ":" in listen_on else socket.AF_INET
    both = listen_on == "::"
    with (
        socket.create_server((listen_on, 0), family=family, dualstack_ipv6=both) as server,
        socket.create_connection((dial, server.getsockname()[1]), timeout=PATIENCE) as client,
        server.accept()[0] as ours,
    ):
        ours.settimeout(PATIENCE)
        yield ours, client


def peer(connection: socket.socket) -> str:
    """The client of a connection, as gRPC names it to its server."""
    host, port = connection.getsockname()[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


@pytest.mark.parametrize(
    ("listen_on", "dial"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")]
)
def test_the_connection_of_that_peer_is_cut_off_and_no_other(listen_on: str, dial: str) -> None:
    with ExitStack() as stack:
        ends = [stack.enter_context(connected(listen_on, dial)) for _ in range(3)]
        open_files = len(os.listdir("/dev/fd"))
        assert cut_off(peer(ends[1][1]))
        assert len(os.listdir("/dev/fd")) == open_files
        assert ends[1][1].recv(1) == ends[1][0].recv(1) == b""
        for ours, client in (ends[0], ends[2]):
            ours.sendall(b"still")
            assert client.recv(5) == b"still"


@pytest.mark.parametrize("name", ["unix:/tmp/socket", "ipv4:127.0.0.1:1", "nobody", ""])
def test_a_peer_that_is_not_connected_is_not_found(name: str) -> None:
    with connected("127.0.0.1", "127.0.0.1") as (ours, client):
        assert not cut_off(name)
        client.sendall(b"still")
        assert ours.recv(5) == b"still"


def test_sockets_of_other_kinds_are_passed_over() -> None:
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as netlink,
        connected("127.0.0.1", "127.0.0.1") as (ours, client),
    ):
        netlink.bind((0, 0))
        assert cut_off(peer(client))
        assert ours.recv(1) == b""
        assert netlink.getsockname()[0] != 0


def test_all_but_those_that_stay_are_cut_off_of_one_port() -> None:
    with ExitStack() as stack:
        staying, leaving = (stack.enter_context(connected("127.0.0.1", "127.0.0.1")) for _ in "ab")
        port = staying[0].getsockname()[1]
        # another port's are none of its business
        assert cut_off_others(port, {peer(staying[1])}) == 0
        assert cut_off_others(leaving[0].getsockname()[1], {peer(staying[1])}) == 1
        assert leaving[1].recv(1) == b""
        staying[0].sendall(b"still")
        assert staying[1].recv(5) == b"still"


def test_a_process_without_a_file_left_finds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected("127.0.0.1", "127.0.0.1") as (_, client):

        def no_file(*_: object) -> None:
            raise OSError(errno.EMFILE, "too many open files")

        for name in ("dup", "listdir"):
            monkeypatch.setattr(os, name, no_file)
            assert not cut_off(peer(client))
