"""What a stream still does after its client has ended its requests (SPEC.md, section 6)."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from stip.v1.inference_pb2 import InferRequest
from stip.v1.manifest_pb2 import Manifest
from tests.support.wire.requests import CLOSE, WireStream, open_request, step_request

ROWS = np.ones((300, 60), np.float16)
STEPS = 3
STEP_REQUESTS = [step_request(number * len(ROWS), ROWS) for number in range(STEPS)]
LENGTHS = [(number + 1) * len(ROWS) for number in range(STEPS)]


def lengths(stream: WireStream) -> list[int]:
    """The lengths that all remaining results state, up to the end of the stream with OK."""
    return [answer.result.length for answer in stream.call]


def test_steps_in_flight_are_answered_after_a_half_close(
    strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(strict_channel).send(open_request(talking_manifest), *STEP_REQUESTS)
    stream.half_close_only()
    session_id = stream.opened().session_id
    assert lengths(stream) == LENGTHS
    with WireStream(strict_channel) as resumed:
        resumed.send(open_request(talking_manifest, resume_session_id=session_id))
        assert resumed.opened().length == LENGTHS[-1]


@pytest.mark.parametrize(
    "late",
    [CLOSE, STEP_REQUESTS[0], step_request(10_000, ROWS), b"\xff\xff\xff"],
    ids=["close", "step", "wrong step", "garbage"],
)
def test_steps_before_close_are_answered_and_what_follows_it_is_ignored(
    late: InferRequest | bytes, strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(strict_channel)
    stream.send(open_request(talking_manifest), *STEP_REQUESTS, CLOSE, late)
    session_id = stream.opened().session_id
    assert lengths(stream) == LENGTHS
    resumed = WireStream(strict_channel)
    resumed.send(open_request(talking_manifest, resume_session_id=session_id))
    assert resumed.refusal().reason == "SESSION_GONE"


def test_steps_before_a_faulty_one_are_answered_after_a_half_close(
    strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(strict_channel)
    stream.send(open_request(talking_manifest), *STEP_REQUESTS, step_request(10_000, ROWS))
    stream.half_close_only()
    stream.opened()
    assert [stream.result().length for _ in LENGTHS] == LENGTHS
    assert stream.refusal().reason == "POSITION_BEYOND_END"
