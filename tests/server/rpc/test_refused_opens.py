"""What a server refuses before there is a session, and requests out of order."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import numpy as np
import pytest

from stip.v1.inference_pb2 import InferRequest
from stip.v1.manifest_pb2 import Manifest
from tests.support.parties import Server
from tests.support.waiting import eventually
from tests.support.wire.requests import CLOSE, WireStream, connection, open_request, step_request

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
TTL = 600
STEP = step_request(0, np.ones((1, 60), np.float16))
WRONG_KEY = {"key_id": "0" * 32}
WRONG_BUNDLE = {"bundle_id": "0" * 64}
OPENS = {
    "wrong key": (WRONG_KEY, PRECONDITION, "WRONG_KEY", "open.key_id"),
    "no key": ({"key_id": ""}, PRECONDITION, "WRONG_KEY", "open.key_id"),
    "other conversion": (WRONG_BUNDLE, PRECONDITION, "WRONG_BUNDLE", "open.bundle_id"),
    "too long": (
        {"max_length": 100_001},
        *(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_OVERFLOW", "open.max_length"),
    ),
    "no such session": (
        {"resume_session_id": b"x" * 16},
        *(grpc.StatusCode.NOT_FOUND, "SESSION_GONE", ""),
    ),
    "session id of no form": (
        {"resume_session_id": b"x" * 70_000},
        *(grpc.StatusCode.NOT_FOUND, "SESSION_GONE", ""),
    ),
}


@pytest.mark.parametrize("name", OPENS)
def test_a_bad_open_is_refused_by_name(
    name: str, strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    changes, code, reason, field = OPENS[name]
    refusal = WireStream(strict_channel).send(open_request(talking_manifest, **changes)).refusal()
    assert (refusal.code, refusal.reason, refusal.field) == (code, reason, field)


def test_a_wrong_key_is_refused_even_where_a_session_could_be_resumed(
    strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    with WireStream(strict_channel) as owner:
        session_id = owner.send(open_request(talking_manifest)).opened().session_id
        thief = WireStream(strict_channel)
        thief.send(open_request(talking_manifest, resume_session_id=session_id, **WRONG_KEY))
        assert thief.refusal().reason == "WRONG_KEY"
        assert owner.send(STEP).result().length == 1


@pytest.mark.parametrize("first", [STEP, CLOSE, InferRequest()], ids=["step", "close", "empty"])
def test_a_stream_that_does_not_begin_with_open_is_refused(
    first: InferRequest, strict_channel: grpc.Channel
) -> None:
    refusal = WireStream(strict_channel).send(first).refusal()
    assert (refusal.code, refusal.reason, refusal.field) == (PRECONDITION, "NOT_OPEN", "open")


@pytest.mark.parametrize("again", ["open", "empty"])
def test_after_open_only_steps_are_taken_and_the_session_survives(
    again: str, strict_channel: grpc.Channel, talking_manifest: Manifest
) -> None:
    stream = WireStream(strict_channel).send(open_request(talking_manifest), STEP)
    session_id = stream.opened().session_id
    stream.result()
    stream.send(open_request(talking_manifest) if again == "open" else InferRequest())
    refusal = stream.refusal()
    assert (refusal.code, refusal.reason) == (PRECONDITION, "NOT_A_STEP")
    with WireStream(strict_channel) as resumed:
        resumed.send(open_request(talking_manifest, resume_session_id=session_id))
        assert resumed.opened().length == 1


def test_a_stream_without_a_request_ends_quietly(strict_channel: grpc.Channel) -> None:
    WireStream(strict_channel).half_close()


def test_one_session_too_many_is_told_when_to_retry_and_room_comes_back(
    own_server: Callable[..., Server], talking_manifest: Manifest
) -> None:
    server = own_server("--max-sessions", 3, "--session-ttl", TTL)
    with connection(server.address) as channel:
        streams = [WireStream(channel).send(open_request(talking_manifest)) for _ in range(3)]
        for stream in streams:
            stream.opened()
        refusal = WireStream(channel).send(open_request(talking_manifest)).refusal()
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "TOO_MANY_SESSIONS")
        assert refusal.retry_after is not None
        assert 0 < refusal.retry_after < TTL
        assert "as many sessions as it may: 3" in refusal.message

        streams[0].close()
        another = WireStream(channel).send(open_request(talking_manifest))
        another.opened()
        assert streams[1].send(STEP).result().length == 1

        # a parked session counts until its time to live is over, which is when to retry
        another.break_off()

        def time_to_live_is_told() -> bool:
            refusal = WireStream(channel).send(open_request(talking_manifest)).refusal()
            return TTL / 2 < (refusal.retry_after or 0) <= TTL

        eventually(time_to_live_is_told)
