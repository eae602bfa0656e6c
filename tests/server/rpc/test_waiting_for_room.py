"""A full server refuses a client at once, or serves it when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stip_client import AsyncClient, Client, ServerBusyError
from tests.support.parties import Server, run_tool
from tests.support.waiting import PATIENCE, eventually

WAIT = PATIENCE


@pytest.fixture
def one_place(own_server: Callable[..., Server]) -> Server:
    return own_server("--max-sessions", 1, "--max-open-wait", WAIT)


def until_someone_waits(client: Client) -> None:
    eventually(lambda: client.model_info().load.waiting_opens > 0)


def test_without_waiting_a_full_server_refuses_and_says_when_to_come_again(
    one_place: Server, talking_bundles: Path
) -> None:
    with (
        Client(one_place.address, talking_bundles / "client") as client,
        client.session(),
        pytest.raises(ServerBusyError) as refusal,
    ):
        client.session()
    assert refusal.value.reason == "TOO_MANY_SESSIONS"
    assert refusal.value.retry_after is not None and refusal.value.retry_after > 0


def test_a_client_that_waits_is_served_when_a_session_ends(
    one_place: Server, talking_bundles: Path
) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        Client(one_place.address, talking_bundles / "client") as client,
    ):
        first = client.session()
        expected = first.forward([1, 2, 3])
        waiting = pool.submit(client.session, wait=WAIT)
        until_someone_waits(client)
        first.close()
        assert (waiting.result().forward([1, 2, 3]) == expected).all()


def test_an_asynchronous_client_waits_as_well(one_place: Server, talking_bundles: Path) -> None:
    async def run() -> int:
        async with AsyncClient(one_place.address, talking_bundles / "client") as client:
            first = await client.session()
            waiting = asyncio.create_task(client.session(wait=WAIT))
            while not (await client.model_info()).load.waiting_opens:
                await asyncio.sleep(0.01)
            await first.close()
            return (await waiting).position

    assert asyncio.run(run()) == 0


def test_the_command_line_waits_as_long_as_it_is_told(
    one_place: Server, talking_bundles: Path
) -> None:
    arguments = ("generate", "--server", one_place.address, "--bundle", talking_bundles / "client")
    arguments += ("--prompt", "w1 w2", "--raw", "--max-new-tokens", "2")
    with (
        ThreadPoolExecutor(1) as pool,
        Client(one_place.address, talking_bundles / "client") as client,
        client.session() as first,
    ):
        refused = run_tool("stip_client", *arguments)
        assert refused.returncode == 1 and "--wait" in refused.stderr
        waiting = pool.submit(run_tool, "stip_client", *arguments, "--wait", WAIT)
        until_someone_waits(client)
        first.close()
        assert waiting.result().returncode == 0
