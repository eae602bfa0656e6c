"""Ctrl-C and SIGTERM on the client in mid-answer: it goes at once, and the server lets go of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest

from stip_client import Client, ServerBusyError
from tests.faults.test_lost_server import talking
from tests.support.command_line import assert_no_traceback
from tests.support.parties import Server
from tests.support.waiting import PATIENCE

TIMES = 4
AT_ONCE = 5.0


@pytest.mark.quiet
def test_ctrl_c_ends_the_client_and_closes_its_stream(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server("--max-sessions", 1, "--session-ttl", 1)
    for attempt in range(TIMES):
        with talking(server, talking_bundles / "client") as client:
            sleep(0.02 * attempt)
            client.send_signal(signal.SIGINT)
            interrupted_at = monotonic()
            _, stderr = client.communicate(timeout=PATIENCE)
            took = monotonic() - interrupted_at
        assert client.returncode == 130, stderr
        assert_no_traceback(stderr)
        assert "stip-client: interrupted" in stderr
        assert took < AT_ONCE
        # the only session there is can be had again
        wait_for_a_session(server, talking_bundles)
    assert server.process.poll() is None


def wait_for_a_session(server: Server, model: Path) -> None:
    """A session whose stream was still open would never be free; a parked one is, after 1 s."""
    deadline = monotonic() + PATIENCE
    with Client(server.address, model / "client") as client:
        while True:
            try:
                with client.session() as session:
                    session.forward([5, 6])
            except ServerBusyError:
                assert monotonic() < deadline
                sleep(0.1)
            else:
                return


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
