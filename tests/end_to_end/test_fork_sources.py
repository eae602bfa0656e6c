"""Forks keep their tokens, whatever happens to the session that they were forked from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stip.v1.inference_pb2 import ForkPoint
from stip_client import Client, ServerBusyError, SessionLostError
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.servers.failpoints import faulty_server
from tests.support.servers.watched import Watched, watched_server
from tests.support.sessions.branches import PREFIX, Branch, branch, kv_bytes_used, tokens
from tests.support.waiting import eventually
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    read_manifest,
    step_request,
)


def test_forks_outlive_a_source_that_is_overwritten(
    watched_client: Client, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    untouched, begun = source.fork(200), source.fork(200)
    begun.add(4)
    source.roll_back(10)
    source.add(*tokens(250, seed=5))
    for each in (untouched, begun, source):
        each.add(6)


def test_forks_outlive_a_source_that_is_closed(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    untouched, begun = source.fork(200), source.fork(250)
    of_untouched = untouched.fork(100)
    begun.add(4)
    source.close()
    for each in (of_untouched, untouched, begun):
        each.add(5)
    for each in (untouched, begun, of_untouched):
        each.close()
    eventually(lambda: kv_bytes_used(watched) == 0)


def test_forks_outlive_a_source_that_expires(
    tmp_path: Path, tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    with (
        watched_server(tiny_bundles / "server", tmp_path, "--session-ttl", 0.2) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
    ):
        source = branch(client, tiny_oracle)
        forks = [source.fork(200), source.fork()]
        source.break_off()
        eventually(lambda: server.metric("stip_sessions_ended_total", cause="expired") == 1)
        for fork in forks:
            fork.add(*tokens(3))
        with pytest.raises(SessionLostError):
            source.session.fork(5)
        server.assert_no_errors()


def test_forks_outlive_a_source_that_is_evicted(
    tmp_path: Path, tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    arguments = ("--session-ttl", 0, "--max-sessions", 3)
    with (
        watched_server(tiny_bundles / "server", tmp_path, *arguments) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
    ):
        source = branch(client, tiny_oracle)
        forks = [source.fork(200), source.fork()]
        for fork in forks:
            fork.add(1)
        forks[1].roll_back(300)
        forks[1].fork(5)  # there is no room but the source's, which was used least recently
        assert server.metric("stip_sessions_ended_total", cause="evicted") == 1
        for fork in forks:
            fork.add(2)
        with pytest.raises(SessionLostError):
            source.add(3)
        server.assert_no_errors()


def test_a_source_is_not_evicted_for_its_own_fork(
    tmp_path: Path, tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    arguments = ("--session-ttl", 0.5, "--max-sessions", 2)
    with (
        watched_server(tiny_bundles / "server", tmp_path, *arguments) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
    ):
        source, idle = branch(client, tiny_oracle), branch(client, tiny_oracle, [1, 2])
        found: list[Branch] = []

        def forked() -> bool:
            try:
                found.append(source.fork())
            except ServerBusyError:
                return False
            return True

        eventually(forked)
        for each in (*found, source):
            each.add(1)
        with pytest.raises(SessionLostError):
            idle.add(1)


def test_a_source_that_ends_while_its_fork_waits_for_room_leaves_nothing_behind(
    tmp_path: Path, tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    with (
        watched_server(tiny_bundles / "server", tmp_path, "--max-sessions", 2) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
        ThreadPoolExecutor() as pool,
    ):
        source, other = branch(client, tiny_oracle), branch(client, tiny_oracle, [1, 2])
        fork = pool.submit(source.session.fork, 100, wait=50.0)
        eventually(lambda: server.load().waiting_opens == 1)
        source.close()
        with pytest.raises(SessionLostError):
            fork.result()
        eventually(lambda: server.load().sessions == 1)
        other.add(3)


def test_steps_under_way_at_the_source_are_waited_for_and_count(
    tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    manifest = read_manifest(tiny_bundles / "client")
    with (
        faulty_server(tiny_bundles / "server", ["slow=0.02"], "--max-batch-rows", 10) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
        connection(server.address) as channel,
    ):
        rows = client.bundle.masked_embeddings(PREFIX)
        with WireStream(channel) as source, WireStream(channel) as all_of_it:
            session_id = source.send(open_request(manifest)).opened().session_id
            source.send(*(step_request(at, rows[at : at + 100]) for at in (0, 100, 200)))
            eventually(lambda: client.model_info().load.waiting_steps > 0)
            early = ForkPoint(session_id=session_id, length=50)  # not computed yet
            with WireStream(channel) as part:
                opened = part.send(open_request(manifest, fork=early)).opened()
                assert opened.length == 50
                found = logits_of(part.send(step_request(50, rows[:9])).result())
                assert_equal_logits(found, tiny_oracle.logits(PREFIX[:50] + PREFIX[:9])[-1:])
            assert [source.result().length for _ in range(3)] == [100, 200, 300]
            whole = ForkPoint(session_id=session_id)
            assert all_of_it.send(open_request(manifest, fork=whole)).opened().length == 300
            found = logits_of(all_of_it.send(step_request(300, rows[:1])).result())
            assert_equal_logits(found, tiny_oracle.logits([*PREFIX, PREFIX[0]])[-1:])
