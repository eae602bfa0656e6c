"""Clients that ping often are kept, clients that have vanished without a word are found out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from stip_client import Client
from tests.support.parties import Server
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.frames import GO_AWAY, PING, PREFACE, SETTINGS, frame
from tests.support.wire.proxy import proxy
from tests.support.wire.requests import WireStream, connection, open_request, step_request

PINGS = 100
ACK = 1
KEEPALIVE = 1
# Twice that, on a slow machine; without a time-out of its own a ping is waited for 60 s.
NOTICED_WITHIN = 40.0
ROWS = np.ones((3, 60), np.float16)


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    program = ("tests.support.servers.failpoints", f"keepalive={KEEPALIVE}", "--")
    with watched_server(talking_bundles / "server", tmp_path, program=program) as server:
        yield server


def frames_of(wire: socket.socket) -> Iterator[tuple[int, int]]:
    """The kind and flags of each frame that a server sends, until it ends the connection."""
    with wire.makefile("rb") as reader:
        while len(header := reader.read(9)) == 9:
            reader.read(int.from_bytes(header[:3], "big"))
            yield header[3], header[4]


def test_a_connection_that_pings_without_end_is_answered_and_kept(strict_server: Server) -> None:
    host, _, port = strict_server.address.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=PATIENCE)) as wire:
        wire.sendall(PREFACE + frame(SETTINGS))
        received = frames_of(wire)
        for number in range(PINGS):  # each is answered before the next is sent
            wire.sendall(frame(PING, number.to_bytes(8, "big")))
            while (kind_and_flags := next(received, (GO_AWAY, 0))) != (PING, ACK):
                assert kind_and_flags[0] != GO_AWAY, number


@pytest.mark.parametrize("at_work", [False, True], ids=["idle", "with answers on the way"])
def test_a_client_that_vanishes_is_noticed_and_its_session_can_be_resumed(
    at_work: bool, server: Watched, talking_manifest: Manifest
) -> None:
    with proxy(server.address) as way, connection(way.address) as channel:
        stream = WireStream(channel, deadline=10 * PATIENCE)
        session_id = (
            stream.send(open_request(talking_manifest, max_length=5000)).opened().session_id
        )
        stream.send(step_request(0, ROWS)).result()
        if at_work:
            stream.send(*(step_request(3, np.ones((900, 60), np.float16)) for _ in range(4)))
        way.fall_silent()
        eventually(lambda: server.metric("stip_sessions", state="parked") == 1, NOTICED_WITHIN)
        with connection(server.address) as direct, WireStream(direct) as resumed:
            resumed.send(open_request(talking_manifest, resume_session_id=session_id))
            assert resumed.opened().length >= len(ROWS)
            assert resumed.send(step_request(3, ROWS)).result().length == 6
        stream.break_off()


@pytest.mark.quiet  # a client that is not let run for a second is taken for one that vanished
def test_an_idle_client_of_ours_outlives_many_keepalives(
    server: Watched, talking_bundles: Path
) -> None:
    with Client(server.address, talking_bundles / "client") as client, client.session() as session:
        session.forward([5, 6, 7])
        stream = session._stream
        sleep(3 * KEEPALIVE)
        session.forward([8])
        assert session._stream is stream
        assert server.metric("stip_streams_opened_total") == 1
