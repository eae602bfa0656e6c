"""Fixtures that several test modules share.

The tests' own processes compute with the BLAS of MLX's wheel: mlx-lm gives BLIS dimensions beyond
which it reads (stip_model/operations/mlx.py). Servers have processes of their own, and load
a fast one.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.models.oracle import Oracle
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import Server, make_model, server_process

pytest_plugins = [
    "tests.support.fixtures.talking_model",
    "tests.support.fixtures.watched_server",
    "tests.support.fixtures.started_engine",
    "tests.support.fixtures.skipped_tests",
]

# A shell ignores Ctrl-C for what it runs in the background, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes depends on the machine and proves nothing.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tiny_checkpoint() -> RandomCheckpoint:
    """A small Qwen2 with a tied head, biases and odd dimensions."""
    return RandomCheckpoint()


@pytest.fixture(scope="session")
def tiny_bundles(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: RandomCheckpoint
) -> Path:
    """The bundles of tiny_checkpoint: its folder holds server/ and client/."""
    return make_model(tmp_path_factory.mktemp("tiny"), tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_oracle(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: RandomCheckpoint
) -> Oracle:
    """mlx-lm's model of tiny_checkpoint."""
    return Oracle(tiny_checkpoint.write(tmp_path_factory.mktemp("oracle") / "checkpoint"))


@pytest.fixture(scope="session")
def tiny_server(tiny_bundles: Path) -> Iterator[Server]:
    """A server of tiny_bundles, shared by the session: leave no session behind in it."""
    with server_process(tiny_bundles / "server", "--allow-echo") as server:
        yield server
