"""A computation that fails: its step is answered, its session is closed, the others go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stip_client import Client, ServerError, SessionLostError

POISONED_ROWS = 13
# The real server, with a failpoint in the engine: a step of POISONED_ROWS rows fails to compute.
SERVER = f"""
import sys
from stip_server import blas, engine
blas.load_blas = lambda choice: blas.Blas("none: mlx is imported already")
forward = engine._forward
def failing(model, runnable):
    if any(step.num_rows == {POISONED_ROWS} for step, _ in runnable):
        raise RuntimeError("injected")
    return forward(model, runnable)
engine._forward = failing
from stip_server.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def client(model: Path) -> Iterator[Client]:
    command = [sys.executable, "-c", SERVER, "--model", str(model / "server"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--cpu", "--max-sessions", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("listening on ").strip()
            with Client(address, model / "client") as client:
                yield client
        finally:
            process.kill()


def test_a_failed_step_ends_its_session_and_no_other(client: Client) -> None:
    with client.session() as healthy:
        expected = healthy.forward([5, 6, 7])
        doomed = client.session()
        doomed.forward([5, 6])
        with pytest.raises(ServerError, match="injected") as failure:
            doomed.forward(list(range(POISONED_ROWS)))
        assert failure.value.reason == "ENGINE_FAILED"
        with pytest.raises(SessionLostError):
            doomed.forward([7])
        with client.session() as third:  # the failed session's place is free
            assert np.array_equal(third.forward([5, 6, 7]), expected)
        healthy.rollback(0)
        assert np.array_equal(healthy.forward([5, 6, 7]), expected)
