"""A fork answers as if it had been sent all of its tokens, and costs nothing until it diverges."""

from __future__ import annotations

from pathlib import Path
from random import Random

import grpc
import pytest

from stip.v1.inference_pb2 import ForkPoint
from stip_client import Client, ContextOverflowError, RequestError, SessionLostError
from tests.support.models.oracle import Oracle
from tests.support.servers.watched import Watched, watched_server
from tests.support.sessions.branches import VOCAB_SIZE, branch, kv_bytes_used, tokens
from tests.support.sessions.client_session import core_of
from tests.support.waiting import eventually
from tests.support.wire.requests import WireStream, connection, open_request, read_manifest

GROWTH = 256  # rows by which a cache grows


# -- as if all had been computed -----------------------------------------------------------


@pytest.mark.parametrize("length", [1, 20, GROWTH - 1, GROWTH, GROWTH + 1, 300])
def test_a_fork_answers_as_if_it_had_been_sent_all(
    watched_client: Client, tiny_oracle: Oracle, length: int
) -> None:
    source = branch(watched_client, tiny_oracle)
    fork = source.fork(length)
    assert fork.session.position == length
    fork.add(*tokens(20, seed=1))
    fork.add(7)
    source.add(*tokens(20, seed=2))
    fork.add(8)
    source.roll_back(5)
    source.add(9)
    fork.add(9)


def test_forks_of_forks_answer_each_as_alone_in_whatever_order_they_go(
    watched_client: Client, tiny_oracle: Oracle
) -> None:
    random = Random(3)
    branches = [branch(watched_client, tiny_oracle, tokens(60))]
    for _ in range(12):
        source = random.choice(branches)
        branches.append(source.fork(random.randint(1, len(source.tokens))))
        if random.random() < 0.7:
            random.choice(branches).add(*(random.randrange(VOCAB_SIZE) for _ in range(9)))
        rolled = random.choice(branches)
        rolled.roll_back(random.randint(0, len(rolled.tokens)))
        rolled.add(random.randrange(VOCAB_SIZE))
    while branches:
        branches.pop(random.randrange(len(branches))).close()
        for each in branches:
            each.add(random.randrange(VOCAB_SIZE))


def test_a_fork_of_none_is_one_of_all_and_a_fork_of_nothing_begins_anew(
    watched_client: Client, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle, tokens(40))
    for length in (None, 40, 0):
        fork = source.fork(length)
        assert fork.session.position == (0 if length == 0 else 40)
        fork.add(*tokens(5, seed=4))
        assert fork.session.max_length == source.session.max_length


# -- neither computed again nor copied -----------------------------------------------------


def capacity(client: Client, rows: int) -> int:
    """Bytes that a cache of so many rows takes."""
    per_token = client.model_info().limits.kv_bytes_per_token
    return -(-rows // GROWTH) * GROWTH * per_token


def test_a_forked_prefix_is_not_computed_again(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    before = watched.metric("stip_iteration_rows_sum")
    for index in range(4):
        source.fork(290 + index).add(*tokens(3, seed=index))
    assert watched.metric("stip_iteration_rows_sum") == before + 4 * 3


def test_a_forked_prefix_is_not_copied_before_it_diverges(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    one = capacity(watched_client, 300)
    eventually(lambda: kv_bytes_used(watched) == one)
    forks = [source.fork(200), source.fork(300), source.fork()]
    forks += [forks[0].fork(150), forks[1].fork()]
    source.add(1)  # the engine has forked when it has computed this
    source.roll_back(300)
    source.add(2)
    assert kv_bytes_used(watched) == one
    forks[0].add(3)
    eventually(lambda: kv_bytes_used(watched) == one + capacity(watched_client, 201))
    forks[4].add(3)
    eventually(
        lambda: (
            kv_bytes_used(watched)
            == one + capacity(watched_client, 201) + capacity(watched_client, 301)
        )
    )
    for fork in forks:
        fork.close()
    eventually(lambda: kv_bytes_used(watched) == one)


def test_only_forks_of_what_is_overwritten_are_copied(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    one = capacity(watched_client, 300)
    short, long = source.fork(100), source.fork(200)
    source.roll_back(150)
    source.add(1)
    eventually(lambda: kv_bytes_used(watched) == one + capacity(watched_client, 200))
    assert kv_bytes_used(watched) == one + capacity(watched_client, 200)
    for fork in (short, long):
        fork.add(2)


def test_a_fork_reserves_its_own_length(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle
) -> None:
    source = branch(watched_client, tiny_oracle)
    before = watched.load().kv_bytes_reserved
    fork = source.session.fork(100, max_length=110)
    assert watched.load().kv_bytes_reserved == before + capacity(watched_client, 110)
    fork.forward(tokens(10), rows="none")
    with pytest.raises(ContextOverflowError):
        fork.forward([1])
    fork.close()
    assert watched.load().kv_bytes_reserved == before


# -- what is refused -----------------------------------------------------------------------


def test_a_fork_that_is_too_long_is_refused_and_leaves_nothing_behind(
    watched_client: Client, watched: Watched, tiny_oracle: Oracle, tiny_bundles: Path
) -> None:
    source = branch(watched_client, tiny_oracle, tokens(40))
    manifest = read_manifest(tiny_bundles / "client")
    session_id = core_of(source.session).session_id
    with connection(watched.address) as channel:
        for length, max_length, reason, field in (
            (41, 0, "POSITION_BEYOND_END", "open.fork.length"),
            (2**32 - 1, 0, "POSITION_BEYOND_END", "open.fork.length"),
            (40, 39, "CONTEXT_OVERFLOW", "open.max_length"),
            (0, 39, "CONTEXT_OVERFLOW", "open.max_length"),
        ):
            point = ForkPoint(session_id=session_id, length=length)
            request = open_request(manifest, fork=point, max_length=max_length)
            refusal = WireStream(channel).send(request).refusal()
            assert refusal.code is grpc.StatusCode.OUT_OF_RANGE
            assert (refusal.reason, refusal.field) == (reason, field)
    for length in (41, -1):
        with pytest.raises(RequestError, match="holds 40 tokens"):
            source.fork(length)
    assert watched.load().sessions == 1
    source.add(1)


def test_another_identity_cannot_tell_a_session_from_none(
    tmp_path: Path, tiny_bundles: Path, tiny_oracle: Oracle
) -> None:
    bundle, token_file = tiny_bundles / "client", tmp_path / "tokens"
    token_file.write_text("ada aaaaaaaaaaaaaaaa\nbob bbbbbbbbbbbbbbbb\n")
    token_file.chmod(0o600)
    with (
        watched_server(tiny_bundles / "server", tmp_path, "--token-file", token_file) as server,
        Client(server.address, bundle, token="a" * 16) as ada,
        Client(server.address, bundle, token="b" * 16, patience=0) as bob,
    ):
        source, own = branch(ada, tiny_oracle, tokens(40)), branch(bob, tiny_oracle, tokens(40))
        own_id, statuses = core_of(own.session).session_id, []
        for session_id in (core_of(source.session).session_id, bytes(range(16))):
            core_of(own.session).session_id = session_id
            with pytest.raises(SessionLostError) as refusal:
                own.session.fork(20)
            statuses.append((refusal.value.reason, str(refusal.value)))
        assert statuses[0] == statuses[1]
        assert statuses[0][0] == "SESSION_GONE"
        core_of(own.session).session_id = own_id
        for each in (source, own):
            each.fork(20).add(1)
