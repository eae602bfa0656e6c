"""A client that asks for whole rows and never reads them: its backlog is bounded, nobody waits."""

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
from tests.robustness.conftest import VOCAB_SIZE
from tests.robustness.healthy import healthy_session
from tests.robustness.watched import Watched, eventually, watched_server
from tests.robustness.wire import WireStream, open_request, step_request

READERS, TIMES = 4, 3
STEPS = 30
ROWS = np.ones((500, 60), np.float16)
EVERY_ROW = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_ALL, dtype=DataType.DATA_TYPE_FLOAT32)
ANSWER = len(ROWS) * VOCAB_SIZE * 4 / 2**20  # MiB
# Answers that are computed, those that may be unanswered and the one that is being sent.
MAX_ANSWERS = 5
# An answer exists up to three times: as an array, as bytes and as a message.
COPIES = 3
SLACK = 48.0  # MiB that the allocator keeps
# gRPC would otherwise widen the client's window, and take whole answers that nobody reads.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Watched]:
    with watched_server(model / "server", tmp_path, "--kv-memory", "256MiB") as server:
        yield server


def never_reads(address: str, manifest: Manifest, stack: ExitStack) -> WireStream:
    """A stream that has sent everything, on a connection of its own."""
    channel = stack.enter_context(grpc.insecure_channel(address, options=NARROW))
    stream = WireStream(channel, deadline=600).send(open_request(manifest, max_length=1000))
    stream.opened()
    return stream.send(*[step_request(0, ROWS, logits=EVERY_ROW)] * STEPS)


def await_prompts(server: Watched, rows: float) -> None:
    """Wait until the engine has computed more than `rows` rows, and all that it will of prompts."""
    eventually(lambda: server.metric("stip_iteration_rows_sum") > rows + len(ROWS))
    for _ in range(2):  # one that has been answered may send another
        eventually(lambda: server.metric("stip_waiting_steps") <= 1)  # the other session's
        sleep(0.3)


def test_a_reader_that_never_reads_holds_little_and_holds_up_nobody(
    server: Watched, manifest: Manifest
) -> None:
    idle = server.rss
    left = []
    for _ in range(TIMES):
        with healthy_session(server.address, manifest) as healthy, ExitStack() as stack:
            before = server.metric("stip_iteration_rows_sum")
            streams = [never_reads(server.address, manifest, stack) for _ in range(READERS)]
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
    # gRPC itself tells of an answer that it could not send
    server.assert_no_errors(of_grpc=False)
