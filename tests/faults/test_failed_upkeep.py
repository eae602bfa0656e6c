"""A server whose upkeep (expiry, admission, tokens) fails reports why, drains and exits."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.servers.failpoints import faulty_server
from tests.support.waiting import PATIENCE


def test_a_server_whose_upkeep_fails_drains_and_exits_with_1(talking_bundles: Path) -> None:
    with faulty_server(talking_bundles / "server", ["upkeep"], stderr=subprocess.PIPE) as server:
        _, said = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 1
    assert "a maintenance task of the server failed" in said and "injected" in said
    assert "draining" in said and "stopped" in said
