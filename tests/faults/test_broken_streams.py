"""A stream that breaks loses nothing of its session, however it breaks."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

import grpc
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from tests.support.parties import Server
from tests.support.wire.requests import WireStream, connection, open_request, step_request

ROWS = np.ones((3, 60), np.float16)
# The order in which a server learns of a lost stream's end differs from time to time.
TIMES = 20
GARBAGE = (b"\xff\xff\xff", b"\x0a\xff", b"\x00", bytes(range(256)))
OVERSIZED = step_request(3, np.ones((5000, 60), np.float32)).SerializeToString()


def break_off(stream: WireStream, channel: grpc.Channel) -> None:
    del channel
    stream.break_off()


def break_off_at_work(stream: WireStream, channel: grpc.Channel) -> None:
    del channel
    stream.send(step_request(3, np.ones((500, 60), np.float16)))
    sleep(0.003)
    stream.break_off()


def close_channel(stream: WireStream, channel: grpc.Channel) -> None:
    del stream
    channel.close()


def half_close(stream: WireStream, channel: grpc.Channel) -> None:
    del channel
    stream.half_close()


def send_oversized(stream: WireStream, channel: grpc.Channel) -> None:
    del channel
    refusal = stream.send(OVERSIZED).refusal()
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1114112" in refusal.message


@pytest.mark.parametrize(
    "breaks",
    [break_off, break_off_at_work, close_channel, half_close, send_oversized],
    ids=lambda f: f.__name__,
)
def test_a_broken_stream_leaves_its_session_to_be_resumed(
    breaks: Callable[[WireStream, grpc.Channel], None],
    strict_server: Server,
    strict_channel: grpc.Channel,
    talking_manifest: Manifest,
) -> None:
    for number in range(TIMES):
        with connection(strict_server.address) as its_own:
            stream = WireStream(its_own).send(open_request(talking_manifest), step_request(0, ROWS))
            session_id = stream.opened().session_id
            stream.result()
            breaks(stream, its_own)
            sleep(number / 1000)  # another moment each time: none may change the outcome
            with WireStream(strict_channel) as resumed:
                resumed.send(open_request(talking_manifest, resume_session_id=session_id))
                assert resumed.opened().length >= 3
                assert resumed.send(step_request(3, ROWS)).result().length == 6


def test_another_stream_takes_a_session_over(
    strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    first = WireStream(strict_channel).send(open_request(talking_manifest), step_request(0, ROWS))
    session_id = first.opened().session_id
    first.result()
    with WireStream(strict_channel) as second:
        second.send(open_request(talking_manifest, resume_session_id=session_id))
        assert second.opened().length == 3
        refusal = first.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "TAKEN_OVER")
        assert second.send(step_request(3, ROWS)).result().length == 6


def test_a_session_that_was_closed_cannot_be_resumed(
    strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    with WireStream(strict_channel) as stream:
        session_id = stream.send(open_request(talking_manifest)).opened().session_id
    late = WireStream(strict_channel).send(
        open_request(talking_manifest, resume_session_id=session_id)
    )
    assert late.refusal().code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("garbage", GARBAGE, ids=[each[:3].hex() for each in GARBAGE])
def test_bytes_that_are_no_message_are_refused_as_the_first_request(
    garbage: bytes, strict_channel: grpc.Channel
) -> None:
    refusal = WireStream(strict_channel).send(garbage).refusal()
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("garbage", GARBAGE, ids=[each[:3].hex() for each in GARBAGE])
def test_bytes_that_are_no_message_are_refused_and_the_session_survives(
    garbage: bytes, strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(strict_channel).send(open_request(talking_manifest), step_request(0, ROWS))
    session_id = stream.opened().session_id
    stream.result()
    refusal = stream.send(garbage).refusal()
    with WireStream(strict_channel) as resumed:
        resumed.send(open_request(talking_manifest, resume_session_id=session_id))
        assert resumed.opened().length == 3
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
