"""An engine that hangs or dies: every client learns of it, and the process still obeys.

How soon it counts as hanging is tested in tests/server/engine/test_watchdog.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from tests.support.servers.brake import Brake
from tests.support.servers.health_watch import NOT_SERVING, SERVING, health_of
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import eventually
from tests.support.wire.requests import (
    Refusal,
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
)

STALLING, DYING = 17, 19
TIMES = 2
ROWS = np.ones((3, 60), np.float16)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
StartServer = Callable[..., Watched]


@pytest.fixture
def brake(tmp_path: Path) -> Brake:
    return Brake(tmp_path)


@pytest.fixture
def start(talking_bundles: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts a server with faults in its engine."""
    with ExitStack() as stack:

        def start(*faults: str, flags: tuple[object, ...] = ()) -> Watched:
            server = watched_server(talking_bundles / "server", tmp_path, *flags, faults=faults)
            return stack.enter_context(server)

        yield start


def begin(channel: grpc.Channel, manifest: Manifest) -> tuple[WireStream, bytes]:
    """A stream, and the id of its session."""
    stream = WireStream(channel).send(open_request(manifest, max_length=64))
    return stream, stream.opened().session_id


def strike(stream: WireStream, rows: int) -> None:
    """Send a step of `rows` rows."""
    stream.send(step_request(0, np.ones((rows, 60), np.float16)))


def resume(channel: grpc.Channel, manifest: Manifest, session_id: bytes) -> tuple[WireStream, int]:
    """A stream that has resumed a session, and the session's length."""
    stream = WireStream(channel)
    stream.send(open_request(manifest, resume_session_id=session_id))
    return stream, stream.opened().length


def refused_open(channel: grpc.Channel, manifest: Manifest) -> Refusal:
    return WireStream(channel).send(open_request(manifest)).refusal()


def test_a_stalled_engine_is_reported_and_loses_no_session(
    start: StartServer, brake: Brake, talking_manifest: Manifest
) -> None:
    server = start(brake.stall(STALLING))
    with connection(server.address) as channel, health_of(server.address) as health:
        for _ in range(TIMES):
            idle, idle_id = begin(channel, talking_manifest)
            stalled, stalled_id = begin(channel, talking_manifest)
            before = logits_of(idle.send(step_request(0, ROWS)).result())

            brake.press()
            strike(stalled, STALLING)
            for stream in (stalled, idle):
                refusal = stream.refusal()
                assert (refusal.code, refusal.reason) == (UNAVAILABLE, "ENGINE_STALLED")
            health.await_change(NOT_SERVING)
            refusal = refused_open(channel, talking_manifest)
            assert (refusal.code, refusal.reason) == (UNAVAILABLE, "ENGINE_STALLED")
            # what does not need the engine is still answered
            assert server.metric("stip_serving") == 0
            assert server.metric("stip_engine_heartbeat_age_seconds") >= 4
            assert server.load().sessions == 2

            brake.release()
            health.await_change(SERVING)
            resumed, length = resume(channel, talking_manifest, idle_id)
            assert length == len(ROWS)
            after = logits_of(resumed.send(step_request(0, ROWS)).result())
            np.testing.assert_array_equal(after, before)
            resumed.close()
            resumed, length = resume(channel, talking_manifest, stalled_id)
            assert length in (0, STALLING)
            resumed.close()
            assert server.metric("stip_serving") == 1
    server.stop()
    assert len(re.findall(r"CRITICAL .*does not answer.*stalled", server.log)) == TIMES
    assert len(re.findall("the engine works again", server.log)) == TIMES
    assert "Traceback" not in server.log


def test_a_dead_engine_is_reported_once_and_the_process_ends_well(
    start: StartServer, talking_manifest: Manifest
) -> None:
    server = start(f"die={DYING}", flags=("--log-format", "json"))
    with connection(server.address) as channel, health_of(server.address) as health:
        idle, _ = begin(channel, talking_manifest)
        dying, _ = begin(channel, talking_manifest)
        strike(dying, DYING)
        for stream in (dying, idle):
            refusal = stream.refusal()
            assert (refusal.code, refusal.reason) == (UNAVAILABLE, "ENGINE_DEAD")
        health.await_change(NOT_SERVING)
        for _ in range(3):
            assert refused_open(channel, talking_manifest).reason == "ENGINE_DEAD"
        assert health.seen == [SERVING, NOT_SERVING]
    server.stop()
    records = [json.loads(line) for line in server.log.splitlines()]
    critical = [each["message"] for each in records if each["level"] == "CRITICAL"]
    assert len([each for each in critical if "will not compute again" in each]) == 1
    assert len([each for each in critical if "does not answer" in each]) == 1
    assert sum("Traceback" in each.get("exception", "") for each in records) == 1


def test_an_engine_that_dies_while_the_server_drains_is_not_waited_for(
    start: StartServer, brake: Brake, talking_manifest: Manifest
) -> None:
    brake.press()
    server = start(brake.pause, f"die={DYING}", flags=("--grace", 3600))
    with connection(server.address) as channel, health_of(server.address) as health:
        stream, _ = begin(channel, talking_manifest)
        stream.send(step_request(0, ROWS), step_request(3, np.ones((DYING, 60), np.float16)))
        # the first step is in the iteration that stands, the second waits
        eventually(lambda: server.metric("stip_waiting_steps") == 1)
        server.server.process.terminate()
        health.await_change(NOT_SERVING)
        brake.release()
        refusal = stream.refusal()
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "ENGINE_DEAD")
    server.stop()


@pytest.mark.parametrize("noticed", [False, True], ids=["before it is noticed", "after"])
def test_a_server_whose_engine_hangs_for_good_ends_on_sigterm(
    noticed: bool, start: StartServer, brake: Brake, talking_manifest: Manifest
) -> None:
    brake.press()
    server = start(brake.stall(STALLING), flags=("--grace", 1))
    with connection(server.address) as channel:
        stream, _ = begin(channel, talking_manifest)
        strike(stream, STALLING)
        if noticed:
            assert stream.refusal().reason == "ENGINE_STALLED"
        else:
            stream.send(step_request(STALLING, ROWS))
            eventually(lambda: server.metric("stip_waiting_steps") == 1)
        server.stop()
        if not noticed:
            assert stream.refusal().code is UNAVAILABLE
    assert "Traceback" not in server.log
