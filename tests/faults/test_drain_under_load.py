"""SIGTERM: once on a server with eight busy clients, twice, and while the weights load."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Manifest
from tests.support.command_line import assert_no_traceback
from tests.support.servers.brake import Brake
from tests.support.servers.health_watch import NOT_SERVING, SERVING, health_of
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire.requests import (
    Refusal,
    WireStream,
    connection,
    open_request,
    refusal_of,
    step_request,
)

PREFILLING, DECODING = 4, 4
PROMPT_ROWS, BATCH_ROWS = 600, 16
# Seconds: so long that a server that waits for its end counts as hanging.
GRACE = 3600
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def brake(tmp_path: Path) -> Brake:
    return Brake(tmp_path)


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path, brake: Brake) -> Iterator[Watched]:
    """A server whose engine stands, and on which a prompt takes many iterations."""
    flags = ("--max-batch-rows", BATCH_ROWS, "--grace", GRACE)
    brake.press()
    with watched_server(
        talking_bundles / "server", tmp_path, *flags, faults=[brake.pause]
    ) as server:
        yield server


class Worker:
    """A client that sends steps of `rows` rows, each when the last one is answered."""

    def __init__(self, address: str, manifest: Manifest, rows: int) -> None:
        self._address = address
        self._manifest = manifest
        self._step = step_request(0, np.ones((rows, 60), np.float16))
        self.rows = rows
        self.enough = Event()
        self.sent = self.answered = 0

    def run(self) -> Refusal:
        """Work until the server ends the stream; the status that it ends with."""
        with connection(self._address) as channel:
            stream = WireStream(channel)
            stream.send(open_request(self._manifest, max_length=self.rows)).opened()
            try:
                while not self.enough.is_set() or self.sent > self.answered:
                    if self.sent == self.answered:
                        stream.send(self._step)
                        self.sent += 1
                    assert stream.result().length == self.rows
                    self.answered += 1
            except grpc.RpcError as error:
                return refusal_of(error)
            return stream.refusal()


def test_what_runs_is_answered_and_nothing_else_is_begun(
    server: Watched, brake: Brake, talking_manifest: Manifest
) -> None:
    rows = [PROMPT_ROWS] * PREFILLING + [1] * DECODING
    workers = [Worker(server.address, talking_manifest, each) for each in rows]
    with (
        ThreadPoolExecutor(len(workers)) as pool,
        health_of(server.address) as health,
        connection(server.address) as channel,
    ):
        grpc.channel_ready_future(channel).result(PATIENCE)
        running = [pool.submit(worker.run) for worker in workers[:PREFILLING]]
        eventually(lambda: server.metric("stip_waiting_steps") == PREFILLING)
        running += [pool.submit(worker.run) for worker in workers[PREFILLING:]]
        eventually(lambda: server.metric("stip_waiting_steps") == len(workers))
        for worker in workers[:PREFILLING]:
            worker.enough.set()
        server.server.process.send_signal(signal.SIGTERM)
        health.await_change(NOT_SERVING)
        refusals = [WireStream(channel).send(open_request(talking_manifest)).refusal()]
        assert server.alive
        assert not any(each.done() for each in running)
        brake.release()
        refusals += [each.result(PATIENCE) for each in running]
        assert health.seen == [SERVING, NOT_SERVING]
    assert {(each.code, each.reason) for each in refusals} == {(UNAVAILABLE, "DRAINING")}
    for worker in workers:
        assert worker.answered >= 1
        assert worker.answered >= worker.sent - (worker.rows == 1)
    assert server.server.process.wait(PATIENCE) == 0
    server.assert_no_errors(of_grpc=False)


def test_a_second_signal_ends_what_still_runs(
    server: Watched, brake: Brake, talking_manifest: Manifest
) -> None:
    workers = [Worker(server.address, talking_manifest, PROMPT_ROWS) for _ in range(8)]
    with ThreadPoolExecutor(len(workers)) as pool, health_of(server.address) as health:
        running = [pool.submit(worker.run) for worker in workers]
        eventually(lambda: server.metric("stip_waiting_steps") == len(workers))
        for worker in workers:
            worker.enough.set()
        server.server.process.send_signal(signal.SIGTERM)
        health.await_change(NOT_SERVING)
        server.server.process.send_signal(signal.SIGTERM)
        refusals = [each.result(PATIENCE) for each in running]
    brake.release()
    assert {(each.code, each.reason) for each in refusals} == {(UNAVAILABLE, "DRAINING")}
    assert all(worker.answered == 0 for worker in workers)
    assert server.server.process.wait(PATIENCE) == 0
    server.assert_no_errors(of_grpc=False)


def test_a_signal_while_the_weights_load_ends_the_process_with_0(talking_bundles: Path) -> None:
    program = ["-m", "tests.support.servers.failpoints", "load", "--"]
    flags = ["--model", str(talking_bundles / "server"), "--port", "0", "--cpu"]
    with subprocess.Popen(
        [sys.executable, *program, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        while not said.endswith("loading\n"):
            line = process.stderr.readline()
            assert line, said
            said += line
        process.terminate()
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert stdout == ""
    assert_no_traceback(said + stderr)
