"""Ctrl-C and SIGTERM on the client in mid-answer: it ends, and the server frees its session."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from stip_client import Client, ServerBusyError
from tests.faults.test_lost_server import talking
from tests.support.command_line import assert_no_traceback
from tests.support.parties import Server
from tests.support.waiting import PATIENCE, eventually

TIMES = 4


def wait_for_a_session(server: Server, bundles: Path) -> None:
    """A session that is still open, or parked, would never be free."""
    with Client(server.address, bundles / "client") as client:

        def computes() -> bool:
            try:
                with client.session() as session:
                    session.forward([5, 6])
            except ServerBusyError:
                return False
            return True

        eventually(computes)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_frees_the_session_at_once(
    signum: signal.Signals, status: int, own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server("--max-sessions", 1, "--session-ttl", 3600)
    for attempt in range(TIMES):
        with talking(server, talking_bundles / "client") as client:
            sleep(0.01 * attempt)
            client.send_signal(signum)
            _, stderr = client.communicate(timeout=PATIENCE)
        assert client.returncode == status, stderr
        assert_no_traceback(stderr)
        assert signum != signal.SIGINT or "stip-client: interrupted" in stderr
        wait_for_a_session(server, talking_bundles)


def test_a_generator_that_is_not_read_to_its_end_frees_its_session(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server("--max-sessions", 1, "--session-ttl", 3600)
    with Client(server.address, talking_bundles / "client") as client:
        pieces = client.generate([5, 6], max_new_tokens=1000)
        next(pieces)
        pieces.close()
        with client.session() as session:
            assert session.position == 0
