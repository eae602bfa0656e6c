"""A server whose metrics are looked at, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stip_client import Client
from tests.robustness.watched import Watched, watched_server


@pytest.fixture(scope="package")
def watched(tmp_path_factory: pytest.TempPathFactory, tiny_bundles: Path) -> Iterator[Watched]:
    """A server of tiny_bundles: leave no session behind in it."""
    with watched_server(tiny_bundles / "server", tmp_path_factory.mktemp("watched")) as server:
        yield server
        server.assert_no_errors()


@pytest.fixture
def watched_client(watched: Watched, tiny_bundles: Path) -> Iterator[Client]:
    """A client of the watched server, on which nobody else works."""
    assert watched.load().sessions == 0
    with Client(watched.address, tiny_bundles / "client") as client:
        yield client
    assert watched.load().sessions == 0
