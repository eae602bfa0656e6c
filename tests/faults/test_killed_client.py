"""A client process that is killed while the server computes its prompt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from stip.v1.inference_pb2 import Load
from stip.v1.manifest_pb2 import Manifest
from tests.support.servers.brake import Brake
from tests.support.servers.healthy_session import healthy_session
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import eventually
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
)

TIMES = 4
STEP_ROWS, STEPS = 2000, 4
BATCH_ROWS = 16
PREFIX, NEXT = 40, 3


@pytest.fixture
def brake(tmp_path: Path) -> Brake:
    return Brake(tmp_path)


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path, brake: Brake) -> Iterator[Watched]:
    """A server on which a prompt takes many iterations."""
    flags = ("--max-batch-rows", BATCH_ROWS)
    with watched_server(
        talking_bundles / "server", tmp_path, *flags, faults=[brake.pause]
    ) as server:
        yield server


def test_a_killed_client_costs_nothing_more_and_its_session_can_be_resumed(
    server: Watched,
    brake: Brake,
    talking_manifest: Manifest,
    talking_bundles: Path,
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    rows = (draw.integers(-64, 65, (STEP_ROWS * STEPS, 60)) / 64).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    moments = Random(0)
    with connection(server.address) as channel:
        stream = WireStream(channel).send(open_request(talking_manifest, max_length=len(rows)))
        stream.opened()
        stream.send(
            *(step_request(at, rows[at : at + n]) for at, n in ((0, PREFIX), (PREFIX, NEXT)))
        )
        stream.result()
        expected = logits_of(stream.result())
        stream.close()
        for _ in range(TIMES):
            before = computed_rows(server)
            dies_after = moments.randint(PREFIX + 1, 2 * STEP_ROWS)
            session_id = prompt_and_die(
                server, brake, talking_bundles, tmp_path / "rows.npy", dies_after
            )
            brake.release()
            resumed = WireStream(channel)
            resumed.send(open_request(talking_manifest, resume_session_id=session_id))
            length = resumed.opened().length
            # only the iteration under way was computed after the client's death
            assert dies_after <= length <= dies_after + 2 * BATCH_ROWS
            assert computed_rows(server) == before + length
            next_rows = rows[PREFIX : PREFIX + NEXT]
            found = logits_of(resumed.send(step_request(PREFIX, next_rows)).result())
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
            resumed.close()
            # nor was anything of the prompt computed next to that step
            assert computed_rows(server) == before + length + NEXT
    eventually(lambda: server.load() == Load())
    server.stop()
    server.assert_no_errors()


def test_a_killed_client_is_noticed_beside_another_session(
    server: Watched,
    brake: Brake,
    talking_manifest: Manifest,
    talking_bundles: Path,
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "rows.npy", np.ones((STEP_ROWS * STEPS, 60), np.float16))
    with healthy_session(server.address, talking_manifest):
        prompt_and_die(server, brake, talking_bundles, tmp_path / "rows.npy", STEP_ROWS)
        brake.release()
        eventually(lambda: server.metric("stip_waiting_steps") <= 1)


def prompt_and_die(
    server: Watched, brake: Brake, bundles: Path, rows: Path, dies_after: int
) -> bytes:
    """Start a client, and kill it once the server has computed `dies_after` more rows.

    Returns the id of its session, which the server has parked. The engine stands.
    """
    limit = computed_rows(server) + dies_after
    brake.press(after_rows=limit)
    command = [sys.executable, "-m", "tests.support.servers.prompting_client", server.address]
    command += [str(bundles / "client"), str(rows), str(STEP_ROWS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        session_id = bytes.fromhex(process.stdout.readline())
        eventually(lambda: computed_rows(server) >= limit)
        process.kill()
    eventually(lambda: server.metric("stip_sessions", state="parked") == 1)
    return session_id


def computed_rows(server: Watched) -> float:
    """Rows that the engine has computed since it began."""
    return server.metric("stip_iteration_rows_sum")
