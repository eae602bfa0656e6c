"""The number of connections is bounded, including those without an authenticated caller."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import grpc
import psutil
import pytest

from stip.v1.manifest_pb2 import Manifest
from stip_server.server import SPARE_CONNECTIONS
from tests.server.rpc.test_standard_services import WATCH
from tests.support.parties import Server, server_process
from tests.support.servers.guarded import info_refusal, model_info
from tests.support.servers.healthy_session import healthy_session
from tests.support.servers.watched import watched_server
from tests.support.waiting import eventually
from tests.support.wire.frames import PATH_NOT_UTF8, never_reading
from tests.support.wire.requests import WireStream, connection, dial, open_request

MAX_CONNECTIONS = 4
MANY = 400


def test_connections_that_say_nothing_do_not_use_up_the_servers_files(
    own_server: Callable[..., Server], talking_manifest: Manifest
) -> None:
    server = own_server("--max-connections", MAX_CONNECTIONS)
    process = psutil.Process(server.process.pid)
    host, _, port = server.address.rpartition(":")
    with connection(server.address) as channel, ExitStack() as silent:
        stream = WireStream(channel).send(open_request(talking_manifest))
        stream.opened()
        before = process.num_fds()
        for _ in range(MANY):
            silent.enter_context(socket.create_connection((host, int(port))))
        with connection(server.address) as late:
            assert info_refusal(late).code is grpc.StatusCode.UNAVAILABLE
        assert process.num_fds() < before + MANY / 2
        # who is in stays in
        assert model_info(channel).load.sessions == 1
        stream.close()
        silent.close()

        def has_room() -> bool:
            with connection(server.address) as late:
                try:
                    return bool(model_info(late).key_id)
                except grpc.RpcError:
                    return False

        eventually(has_room)


def test_one_connection_with_streams_too_many_is_told_when_to_retry(
    own_server: Callable[..., Server], talking_manifest: Manifest
) -> None:
    server = own_server("--max-connections", MAX_CONNECTIONS)
    with ExitStack() as stack:
        channels = [
            stack.enter_context(connection(server.address)) for _ in range(MAX_CONNECTIONS + 1)
        ]
        streams = [WireStream(channel) for channel in channels[:-1]]
        for stream in streams:
            stream.send(open_request(talking_manifest)).opened()
        told = WireStream(channels[-1]).send(open_request(talking_manifest)).refusal()
        assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (told.reason, told.retry_after) == ("TOO_MANY_CONNECTIONS", 1.0)
        # another stream on a connection that has one already
        with WireStream(channels[0]) as another:
            another.send(open_request(talking_manifest)).opened()
        for stream in streams:
            stream.close()
        with WireStream(channels[-1]) as room:
            room.send(open_request(talking_manifest)).opened()


def test_the_cap_on_connections_holds_however_often_the_port_is_taken_again(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    cap = 2 * MAX_CONNECTIONS + SPARE_CONNECTIONS
    options = ("--max-connections", MAX_CONNECTIONS)
    with (
        watched_server(talking_bundles / "server", tmp_path, *options) as server,
        healthy_session(server.address, talking_manifest) as healthy,
        ExitStack() as stack,
    ):
        process = psutil.Process(server.server.process.pid)

        def established() -> int:
            return sum(each.status == "ESTABLISHED" for each in process.net_connections())

        for turn in range(4):
            watches = [stack.enter_context(closing(dial(server.address))) for _ in range(cap + 10)]
            for wire in watches:
                with suppress(OSError):  # those that are beyond the cap
                    wire.sendall(never_reading(WATCH, b""))
            eventually(lambda: established() >= cap - 2)
            assert established() <= cap + 1  # and one of the metrics
            # room for the one that makes gRPC's server end
            for wire in watches[:10]:
                wire.close()
            eventually(lambda: established() <= cap - 2)
            with closing(dial(server.address)) as wire:
                wire.sendall(PATH_NOT_UTF8)
                eventually(lambda t=turn: server.log.count("another takes its place") > t)
            healthy.wait_for_rounds(1)


@pytest.mark.skipif(sys.platform != "linux", reason="psutil reports it only on Linux")
def test_the_server_lets_itself_open_as_many_files_as_connections_may_need(
    talking_bundles: Path,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow_few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    with server_process(
        talking_bundles / "server", "--max-connections", 100, preexec_fn=allow_few
    ) as server:
        allowed, _ = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert allowed >= min(hard, 2 * 100 + 64)
