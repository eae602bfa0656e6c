"""Connections that are cut at any byte: clients resume, and no token differs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Lock
from time import monotonic, sleep
from typing import TypeVar

import numpy as np
import pytest

from stip_client import AsyncClient, Client, ConnectionLostError
from stip_client.client import Session
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import LONG_PATIENCE, PATIENCE, eventually
from tests.support.wire.proxy import proxy

T = TypeVar("T")
SEED = 5
CLIENTS, TOKENS = 3, 60
PROMPT = 40
# One client takes a session that is lost for an error, so that none can be lost unnoticed; the
# others would begin another one.
PATIENT = (0.0, 30.0, 30.0)
# Bytes that a connection lives for: enough to open a session, or gRPC waits before the next one.
SHORTEST, LONGEST = 1_500, 60_000


@pytest.fixture
def server(talking_bundles: Path, tmp_path: Path) -> Iterator[Watched]:
    # no session expires, however long a slow machine takes to connect again
    with watched_server(talking_bundles / "server", tmp_path, "--session-ttl", 3600) as server:
        yield server


def prompt_of(number: int) -> list[int]:
    return Random(f"prompt {number}").choices(range(2000), k=PROMPT)


def persist(call: Callable[[], T]) -> T:
    """What a call returns, once its connection lasts that long."""
    end = monotonic() + PATIENCE
    while True:
        try:
            return call()
        except ConnectionLostError:
            assert monotonic() < end
            sleep(0.01)


def talk(client: Client, number: int) -> list[int]:
    """Greedy tokens, with rollbacks and a fork on the way, whatever it takes."""
    draw, prompt = Random(f"talk {number}"), prompt_of(number)
    session = persist(client.session)
    tokens, pending = [], prompt
    for _ in range(TOKENS):
        tokens.append(choose(session, pending))
        pending = tokens[-1:]
        if draw.random() < 0.15 and len(tokens) > 5:  # the last tokens again
            del tokens[-3:]
            session.rollback(PROMPT + len(tokens) - 1)
            pending = tokens[-1:]
        if draw.random() < 0.05:
            former, session = session, persist(session.fork)
            former.close()
    session.close()
    return tokens


def choose(session: Session, tokens: list[int]) -> int:
    return int(persist(lambda: session.forward(tokens, rows="last"))[-1].argmax())


def test_clients_resume_and_get_the_tokens_of_an_undisturbed_run(
    server: Watched, talking_bundles: Path
) -> None:
    with Client(server.address, talking_bundles / "client") as client:
        expected = [talk(client, number) for number in range(CLIENTS)]
    draw, lock = Random(SEED), Lock()

    def budget() -> int:
        with lock:
            return draw.randint(SHORTEST, LONGEST)

    def disturbed(number: int) -> list[int]:
        with Client(
            cutting.address, talking_bundles / "client", patience=PATIENT[number]
        ) as client:
            return talk(client, number)

    with proxy(server.address, budget) as cutting, ThreadPoolExecutor(CLIENTS) as pool:
        assert list(pool.map(disturbed, range(CLIENTS))) == expected
        assert cutting.cuts > 20
    # what is left was opened on connections that did not live to tell of it
    eventually(lambda: server.metric("stip_sessions", state="attached") == 0)
    assert server.load().waiting_steps == 0
    server.stop()
    server.assert_no_errors()


def test_the_asynchronous_client_resumes_as_well(server: Watched, talking_bundles: Path) -> None:
    async def talk_async(address: str) -> np.ndarray:
        rows = []
        async with AsyncClient(address, talking_bundles / "client", patience=0) as client:
            session = await persist_async(client.session)
            for token in prompt_of(0):
                forward = lambda token=token: session.forward([token], rows="last")  # noqa: E731
                rows.append(await persist_async(forward))
            await session.close()
        return np.concatenate(rows)

    async def persist_async(call):  # type: ignore[no-untyped-def]
        while True:
            try:
                return await call()
            except ConnectionLostError:
                await asyncio.sleep(0.01)

    expected = asyncio.run(talk_async(server.address))
    draw = Random(SEED)
    with proxy(server.address, lambda: draw.randint(SHORTEST, LONGEST)) as cutting:
        found = asyncio.run(asyncio.wait_for(talk_async(cutting.address), LONG_PATIENCE))
        assert cutting.cuts > 5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
