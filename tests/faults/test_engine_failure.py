"""A computation that fails: its step is answered with an error, and other sessions go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stip_client import Client, ConnectionLostError, ServerError, SessionLostError
from tests.support.servers.failpoints import faulty_server
from tests.support.waiting import PATIENCE

FAILING, LOSING, DYING = 33, 37, 39
TIMES, NEIGHBOURS = 10, 3


@pytest.fixture(scope="module")
def client(talking_bundles: Path) -> Iterator[Client]:
    faults = (f"fail={FAILING}", f"lose={LOSING}")
    with (
        faulty_server(talking_bundles / "server", faults) as server,
        Client(server.address, talking_bundles / "client", patience=0) as client,
    ):
        yield client


def test_a_failed_step_fails_alone_and_its_session_goes_on(client: Client) -> None:
    with client.session() as session:
        expected = session.forward([5, 6, 7])
        for _ in range(TIMES):
            with pytest.raises(ServerError, match="injected") as failure:
                session.forward(list(range(FAILING)))
            assert failure.value.reason == "ENGINE_FAILED"
            assert session.position == 3
        again = session.forward([8])
        session.rollback(0)
        assert np.array_equal(session.forward([5, 6, 7]), expected)
        assert np.array_equal(session.forward([8]), again)


def test_a_step_that_fails_in_a_batch_harms_none_of_the_others(client: Client) -> None:
    """Neighbours decode while others fail beside them, and get what they get alone."""
    tokens = list(range(40, 80))
    with client.session() as alone:
        expected = np.concatenate([alone.forward([token]) for token in tokens])
    begun, enough = threading.Barrier(NEIGHBOURS + 1), threading.Event()

    def decode() -> list[np.ndarray]:
        rounds = []
        with client.session() as session:
            session.forward([1])
            begun.wait(PATIENCE)
            while not enough.is_set() or not rounds:
                session.rollback(0)
                rounds.append(np.concatenate([session.forward([token]) for token in tokens]))
        return rounds

    with ThreadPoolExecutor(NEIGHBOURS) as pool:
        neighbours = [pool.submit(decode) for _ in range(NEIGHBOURS)]
        with client.session() as failing:
            begun.wait(PATIENCE)
            for _ in range(TIMES):
                with pytest.raises(ServerError):
                    failing.forward(list(range(FAILING)))
            enough.set()
        for each in neighbours:
            for logits in each.result(PATIENCE):
                assert np.isfinite(logits).all()
                assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_session_whose_cache_is_lost_is_gone_and_no_other(client: Client) -> None:
    with client.session() as healthy:
        expected = healthy.forward([5, 6, 7])
        doomed = client.session()
        doomed.forward([5, 6])
        with pytest.raises(SessionLostError, match="keys and values are lost") as failure:
            doomed.forward(list(range(LOSING)))
        assert failure.value.reason == "CACHE_LOST"
        with pytest.raises(SessionLostError):
            doomed.forward([7])
        healthy.rollback(0)
        assert np.array_equal(healthy.forward([5, 6, 7]), expected)


def test_a_server_that_cannot_serve_is_not_said_to_be_out_of_reach(talking_bundles: Path) -> None:
    with (
        faulty_server(talking_bundles / "server", (f"die={DYING}",)) as server,
        Client(server.address, talking_bundles / "client", patience=0) as client,
        client.session() as session,
    ):
        with pytest.raises(ConnectionLostError) as failure:
            session.forward(list(range(DYING)))
        assert failure.value.reason == "ENGINE_DEAD"
        assert failure.value.hint == "try again in a while, or another server"
