"""Clients that ping often are kept; clients that vanish silently are noticed."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from stip_client import Client
from stip_server.rpc import listener
from stip_server.rpc.listener import Listener
from tests.support.parties import Server
from tests.support.servers.watched import Watched, watched_server
from tests.support.sessions.client_session import stream_of
from tests.support.waiting import LONG_PATIENCE, PATIENCE, eventually
from tests.support.wire.frames import GO_AWAY, PING, PREFACE, SETTINGS, frame
from tests.support.wire.proxy import proxy
from tests.support.wire.requests import WireStream, connection, open_request, step_request

PINGS = 100
ACK = 1
# Seconds of silence after which the server asks a client, and that the client has to answer.
KEEPALIVE, LIMIT = 1, 5
# Bytes of a ping, and of its answer.
PING_BYTES = 17
ROWS = np.ones((3, 60), np.float16)


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    faults = [f"keepalive={KEEPALIVE}:{LIMIT}"]
    with watched_server(talking_bundles / "server", tmp_path, faults=faults) as server:
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
        stream = WireStream(channel, deadline=LONG_PATIENCE)
        session_id = (
            stream.send(open_request(talking_manifest, max_length=5000)).opened().session_id
        )
        stream.send(step_request(0, ROWS)).result()
        if at_work:
            stream.send(*(step_request(3, np.ones((900, 60), np.float16)) for _ in range(4)))
        way.fall_silent()
        eventually(lambda: server.metric("stip_sessions", state="parked") == 1)
        with connection(server.address) as direct, WireStream(direct) as resumed:
            resumed.send(open_request(talking_manifest, resume_session_id=session_id))
            assert resumed.opened().length >= len(ROWS)
            assert resumed.send(step_request(3, ROWS)).result().length == 6
        stream.break_off()


def test_an_idle_client_of_ours_outlives_many_keepalives(
    server: Watched, talking_bundles: Path
) -> None:
    with (
        proxy(server.address) as way,
        Client(way.address, talking_bundles / "client") as client,
        client.session() as session,
    ):
        session.forward([5, 6, 7])
        stream = stream_of(session)
        sent, received = way.sent, way.received
        # pings of both sides, and their answers
        eventually(lambda: way.sent > sent + 6 * PING_BYTES)
        eventually(lambda: way.received > received + 6 * PING_BYTES)
        session.forward([8])
        assert stream_of(session) is stream
        assert server.metric("stip_streams_opened_total") == 1


def test_a_ping_of_grpcs_own_is_not_waited_for_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stands in for a keepalive ping. gRPC would wait 60 s for its answer."""
    monkeypatch.setattr(listener.grpc.aio, "server", lambda options: Options(options))
    made = Listener("127.0.0.1", 0, credentials=None, max_streams=1, max_connections=1)
    options = made._server.options
    assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.keepalive_time_ms"] == 20_000


class Options:
    """Keeps the options of a gRPC server that is never started."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        self.options = dict(options)

    def add_insecure_port(self, address: str) -> int:
        del address
        return 1
