"""Nothing is computed in a session that has ended, or in memory that is not reserved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import LogitsRequest, LogitsRows
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from tests.support.fixtures.talking_model import MAX_STEP_ROWS
from tests.support.servers.watched import watched_server
from tests.support.waiting import eventually
from tests.support.wire.requests import CLOSE, WireStream, connection, open_request, step_request

# An answer that does not fit into what gRPC sends ahead of the reader.
LARGE = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_ALL, dtype=DataType.DATA_TYPE_FLOAT32)
ROWS = np.ones((1500, 60), np.float16)


def rows(count: int) -> NDArray[np.float16]:
    return np.ones((count, 60), np.float16)


def test_a_close_that_waits_behind_unread_answers_does_not_end_a_session_taken_over(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    with (
        watched_server(
            talking_bundles / "server", tmp_path, "--max-step-rows", MAX_STEP_ROWS
        ) as server,
        connection(server.address) as channel,
        connection(server.address) as other,
    ):
        first = WireStream(channel).send(open_request(talking_manifest, max_length=8192))
        session_id = first.opened().session_id
        first.send(*(step_request(start, ROWS, logits=LARGE) for start in (0, 1500)), CLOSE)
        eventually(lambda: server.metric("stip_iteration_seconds_count") >= 6)
        second = WireStream(other)
        second.send(open_request(talking_manifest, resume_session_id=session_id))
        assert second.opened().length == 3000
        assert first.refusal().reason == "TAKEN_OVER"
        assert second.send(step_request(3000, rows(1))).result().length == 3001
        assert server.metric("stip_kv_reserved_bytes") > 0
        second.close()
        eventually(lambda: server.metric("stip_kv_used_bytes") == 0)


def test_a_stream_that_has_lost_its_session_computes_no_more_in_it(
    talking_bundles: Path, talking_manifest: Manifest, tmp_path: Path
) -> None:
    faults = ["lose=13"]
    options = ("--max-step-rows", MAX_STEP_ROWS)
    with (
        watched_server(talking_bundles / "server", tmp_path, *options, faults=faults) as server,
        connection(server.address) as channel,
    ):
        stream = WireStream(channel).send(open_request(talking_manifest, max_length=8192))
        stream.opened()
        stream.send(*(step_request(start, ROWS, logits=LARGE) for start in (0, 1500)))
        stream.send(step_request(3000, rows(13)))
        eventually(lambda: server.metric("stip_sessions_ended_total", cause="failed") == 1)
        iterations = server.metric("stip_iteration_seconds_count")
        stream.send(step_request(0, rows(2000)))
        assert stream.refusal().reason == "CACHE_LOST"
        # a step that comes later is the next that is computed
        with WireStream(channel) as other:
            other.send(open_request(talking_manifest, max_length=64), step_request(0, rows(1)))
            other.opened()
            assert other.result().length == 1
        assert server.metric("stip_iteration_seconds_count") == iterations + 1
        eventually(lambda: server.metric("stip_kv_used_bytes") == 0)
