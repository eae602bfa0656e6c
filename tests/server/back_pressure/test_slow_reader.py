"""Clients that never read their answers: their memory is bounded, and no other client waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep

import grpc
import numpy as np
import pytest

from stip.v1.inference_pb2 import LogitsRequest, LogitsRows
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from stip_model.cache.kv_cache import kv_bytes_per_token
from tests.support.fixtures.talking_model import VOCAB_SIZE
from tests.support.servers.healthy_session import healthy_session
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import LONG_PATIENCE, eventually
from tests.support.wire.requests import WireStream, connection, open_request, step_request

READERS, TIMES = 4, 3
STEPS = 30
ROWS = np.ones((500, 60), np.float16)
EVERY_ROW = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_ALL, dtype=DataType.DATA_TYPE_FLOAT32)
ANSWER = len(ROWS) * VOCAB_SIZE * 4 / 2**20  # MiB
# Answers that are computed, those that may be unanswered and the one that is being sent.
MAX_ANSWERS = 5
# An answer exists up to twice: as bytes, and as what gRPC has made of them.
COPIES = 2
SLACK = 48.0  # MiB that the allocator keeps
# Readers that together want more than there is memory for answers, which has room for two of them.
MANY, MEMORY = 8, 12  # MiB
# gRPC would otherwise widen the client's window, and take whole answers that nobody reads.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    with watched_server(talking_bundles / "server", tmp_path, "--kv-memory", "256MiB") as server:
        yield server


def never_reads(address: str, manifest: Manifest, stack: ExitStack) -> WireStream:
    """A stream that has sent everything, on a connection of its own."""
    channel = stack.enter_context(grpc.insecure_channel(address, options=NARROW))
    stream = WireStream(channel, deadline=LONG_PATIENCE).send(
        open_request(manifest, max_length=1000)
    )
    stream.opened()
    return stream.send(*[step_request(0, ROWS, logits=EVERY_ROW)] * STEPS)


def await_prompts(server: Watched, rows: float) -> None:
    """Wait until the engine has computed more than `rows` rows, and all that it will of prompts."""
    eventually(lambda: server.metric("stip_iteration_rows_sum") > rows + len(ROWS))
    for _ in range(2):  # one that has been answered may send another
        eventually(lambda: server.metric("stip_waiting_steps") <= 1)  # the other session's
        sleep(0.3)


def test_a_reader_that_never_reads_holds_little_and_holds_up_nobody(
    server: Watched, talking_manifest: Manifest
) -> None:
    idle = server.rss
    left = []
    for _ in range(TIMES):
        with healthy_session(server.address, talking_manifest) as healthy, ExitStack() as stack:
            before = server.metric("stip_iteration_rows_sum")
            streams = [never_reads(server.address, talking_manifest, stack) for _ in range(READERS)]
            await_prompts(server, before)
            answers = (server.metric("stip_iteration_rows_sum") - before) / len(ROWS)
            assert answers < READERS * MAX_ANSWERS + 1
            assert server.rss - idle < READERS * MAX_ANSWERS * COPIES * ANSWER + SLACK
            healthy.wait_for_rounds(20)
            for stream in streams:
                stream.break_off()
        eventually(lambda: server.metric("stip_sessions", state="attached") == 0)
        left.append(server.rss)
    # what was computed and never read is gone: two rounds of it would be more
    assert left[-1] - left[0] < (TIMES - 1) * 0.75 * READERS * (MAX_ANSWERS - 1) * ANSWER, left
    server.stop()
    # gRPC itself logs an answer that it could not send
    server.assert_no_errors(of_grpc=False)


def used(server: Watched) -> float:
    """MiB of answers that are computed or unread."""
    return server.metric("stip_answer_used_bytes") / 2**20


def test_many_readers_that_never_read_hold_no_more_than_the_memory_for_answers(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    options = ("--kv-memory", "256MiB", "--answer-memory", f"{MEMORY}MiB")
    with (
        watched_server(talking_bundles / "server", tmp_path, *options) as server,
        healthy_session(server.address, talking_manifest) as healthy,
        ExitStack() as stack,
    ):
        idle = server.rss
        before = server.metric("stip_iteration_rows_sum")
        streams = [never_reads(server.address, talking_manifest, stack) for _ in range(MANY)]
        await_prompts(server, before)
        answers = (server.metric("stip_iteration_rows_sum") - before) / len(ROWS)
        assert answers < 3
        eventually(lambda: used(server) >= 2 * ANSWER)
        assert used(server) <= MEMORY
        assert server.rss - idle < COPIES * MEMORY + SLACK
        healthy.wait_for_rounds(20)
        for stream in streams:
            stream.break_off()
        eventually(lambda: used(server) < 1)


def test_a_reader_that_never_reads_loses_its_connection_when_others_need_the_memory(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    faults = ["unread=0.5"]
    options = ("--kv-memory", "256MiB", "--answer-memory", f"{MEMORY}MiB")
    with (
        watched_server(talking_bundles / "server", tmp_path, *options, faults=faults) as server,
        ExitStack() as stack,
        connection(server.address) as channel,
    ):
        stream = never_reads(server.address, talking_manifest, stack)
        eventually(lambda: used(server) > 2 * ANSWER - 1)
        sleep(2.0)  # nobody needs the memory yet, but itself
        assert server.metric("stip_connections_cut_off_total") == 0
        with WireStream(channel) as reader:
            reader.send(open_request(talking_manifest, max_length=1000)).opened()
            for _ in range(3):
                answer = reader.send(step_request(0, ROWS, logits=EVERY_ROW)).result()
                assert len(answer.logits.values.data) == len(ROWS) * VOCAB_SIZE * 4
            assert server.metric("stip_connections_cut_off_total") == 1
            assert stream.refusal().code is grpc.StatusCode.UNAVAILABLE
            # its session is parked, as after any lost connection
            eventually(lambda: server.metric("stip_sessions", state="parked") == 1)
            reader.close()
        eventually(lambda: used(server) == 0)
        server.stop()
        server.assert_no_errors(of_grpc=False)


def test_a_session_whose_client_does_not_read_makes_room_when_it_has_been_idle(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    options = ("--session-ttl", 1, "--max-sessions", 1)
    with (
        watched_server(talking_bundles / "server", tmp_path, *options) as server,
        ExitStack() as stack,
        connection(server.address) as channel,
    ):
        stream = never_reads(server.address, talking_manifest, stack)
        with WireStream(channel) as other:
            other.send(open_request(talking_manifest, max_length=1000, wait_millis=30_000)).opened()
            assert server.metric("stip_sessions_ended_total", cause="evicted") == 1
            other.close()
        stream.break_off()


def test_sessions_that_are_idle_hold_none_of_the_answers_that_were_read(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    sessions, rows = 12, np.ones((2000, 60), np.float16)
    answer = len(rows) * VOCAB_SIZE * 4 / 2**20
    with (
        watched_server(talking_bundles / "server", tmp_path, "--kv-memory", "512MiB") as server,
        connection(server.address) as channel,
        ExitStack() as stack,
    ):

        def read_one() -> None:
            stream = stack.enter_context(WireStream(channel, deadline=LONG_PATIENCE))
            stream.send(open_request(talking_manifest, max_length=len(rows))).opened()
            stream.send(step_request(0, rows, logits=EVERY_ROW)).result()

        read_one()
        before = server.rss
        for _ in range(sessions):
            read_one()
        assert server.metric("stip_sessions", state="attached") == 1 + sessions
        eventually(lambda: used(server) == 0)
        # their keys and values, and less than a fifth of what they have read
        kept = sessions * len(rows) * kv_bytes_per_token(talking_manifest.model, itemsize=4) / 2**20
        assert server.rss - before < kept + sessions * answer / 5
