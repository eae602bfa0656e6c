"""The reply equals that of an undisturbed run, whatever is cut, killed or full on the way."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stip_client import (
    AsyncClient,
    AsyncSession,
    Client,
    ConnectionLostError,
    ServerBusyError,
    WrongKeyError,
)
from stip_client.client import Session
from stip_client.session.generation import Piece
from stip_client.session.session_core import SessionCore
from stip_client.transport.interface import run
from tests.support.parties import Server, convert, run_tool
from tests.support.sessions.client_session import core_of, forget_stream
from tests.support.waiting import PATIENCE
from tests.support.wire.proxy import proxy

PROMPT = list(range(5, 45))
# Those of a real model: a reply of some length, greedy and drawn.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "seed": 4},
    "drafted": {"draft": 6},
}
TOKENS = 60


@pytest.fixture
def undisturbed(strict_server: Server, talking_bundles: Path) -> Callable[..., list[int]]:
    def run(**options: Any) -> list[int]:
        with Client(strict_server.address, talking_bundles / "client") as client:
            return tokens(client.generate(PROMPT, max_new_tokens=TOKENS, **options))

    return run


async def awaited(session: Awaitable[AsyncSession]) -> AsyncSession:
    return await session


def tokens(pieces: Iterator[Piece]) -> list[int]:
    return [piece.token_id for piece in pieces]


def disturbed(
    target: str | Sequence[str], model: Path, disturb: Callable[[], object], **options: Any
) -> list[int]:
    """A reply in whose middle something happens."""
    found = []
    with Client(target, model / "client") as client:
        for piece in client.generate(PROMPT, max_new_tokens=TOKENS, **options):
            found.append(piece.token_id)
            if len(found) == TOKENS // 3:
                disturb()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_that_is_cut_again_and_again_changes_nothing(
    way: str, strict_server: Server, talking_bundles: Path, undisturbed: Callable[..., list[int]]
) -> None:
    options = WAYS[way]
    with (
        proxy(strict_server.address, delay=0.002) as far,
        Client(far.address, talking_bundles / "client") as client,
    ):
        found = []
        for piece in client.generate(PROMPT, max_new_tokens=TOKENS, **options):
            found.append(piece.token_id)
            if len(found) % 15 == 7:
                far.cut()
    assert found == undisturbed(**options)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_another_server_takes_the_place_of_one_that_is_lost(
    signum: int,
    own_server: Callable[..., Server],
    talking_bundles: Path,
    undisturbed: Callable[..., list[int]],
) -> None:
    first, second = own_server(), own_server()
    target = f"{first.address},{second.address}"
    found = disturbed(target, talking_bundles, lambda: first.process.send_signal(signum))
    assert found == undisturbed()


def test_the_asynchronous_client_moves_as_well(
    own_server: Callable[..., Server], talking_bundles: Path, undisturbed: Callable[..., list[int]]
) -> None:
    first, second = own_server(), own_server()

    async def run() -> list[int]:
        found = []
        async with AsyncClient(
            [first.address, second.address], talking_bundles / "client"
        ) as client:
            async for piece in client.generate(PROMPT, max_new_tokens=TOKENS):
                found.append(piece.token_id)
                if len(found) == 20:
                    first.process.kill()
        return found

    assert asyncio.run(run()) == undisturbed()


def test_a_server_that_is_started_again_is_sent_what_it_has_lost(
    own_server: Callable[..., Server],
    talking_bundles: Path,
    undisturbed: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = own_server()

    def restart() -> None:
        first.process.kill()
        first.process.wait()
        own_server("--port", first.address.rpartition(":")[2])

    with caplog.at_level(logging.WARNING, logger="stip_client"):
        assert disturbed(first.address, talking_bundles, restart) == undisturbed()
    # it is said once, not with every attempt
    assert [each.getMessage().partition(";")[2] for each in caplog.records] == [
        " trying again for up to 30 s"
    ]


def test_a_conversation_moves_with_all_its_sessions(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    """Raw sessions and forks, which nobody resumes for the caller."""
    first, second = own_server(), own_server()
    with Client(f"{first.address},{second.address}", talking_bundles / "client") as client:
        session = client.session()
        session.forward(PROMPT, rows="none")
        fork = session.fork(20)
        fork.forward([7], rows="none")
        expected = [session.forward([9], rows="last"), fork.forward([9], rows="last")]
        for each in (session, fork):
            each.rollback(each.position - 1)
        first.process.kill()
        found = [session.forward([9], rows="last"), fork.forward([9], rows="last")]
        again = fork.fork(10)
        assert again.position == 10
        for one, other in zip(found, expected, strict=True):
            assert abs(one - other).max() < 1e-4 * abs(other).max()


def test_a_conversation_is_forked_from_a_lost_server_by_sending_it_again(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    first, second = own_server(), own_server()
    with Client(f"{first.address},{second.address}", talking_bundles / "client") as client:
        reply = client.generate([*PROMPT, 1], keep=True, max_new_tokens=20, ignore_eos=True)
        next(reply)
        first.process.kill()
        # while the session that it shares its beginning with is busy, and has not noticed yet
        other = tokens(client.generate([*PROMPT, 2], keep=True, max_new_tokens=5))
        assert other == tokens(client.generate([*PROMPT, 2], max_new_tokens=5))
        assert len(tokens(reply)) == 19


def test_a_fork_is_opened_where_its_source_is(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    first, second = own_server(), own_server()
    target = f"{first.address},{second.address}"
    with (
        Client(target, talking_bundles / "client", patience=0) as client,
        client.session() as source,
    ):
        source.forward(PROMPT, rows="none")
        client.targets.leave(client.targets.current)
        with source.fork(20) as fork:  # else the session would be unknown
            assert fork.position == 20
            fork.forward([1])


def test_a_client_begins_with_the_first_server_that_answers(
    own_server: Callable[..., Server], strict_server: Server, talking_bundles: Path
) -> None:
    gone = own_server()
    gone.process.kill()
    gone.process.wait()
    with Client(f"{gone.address},{strict_server.address}", talking_bundles / "client") as client:
        assert client.model_info().limits.max_length > 0
        assert len(tokens(client.generate(PROMPT, max_new_tokens=3))) == 3
    done = run_tool(
        *("stip_client", "generate", "--server", f"{gone.address},{strict_server.address}"),
        *("--bundle", talking_bundles / "client", "--prompt", "w5", "--quiet"),
    )
    assert done.returncode == 0 and done.stdout.startswith("w")


def test_a_full_server_is_left_for_another(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    full, other = own_server("--max-sessions", 1), own_server()
    with (
        Client(full.address, talking_bundles / "client") as holder,
        holder.session(),
        Client(f"{full.address},{other.address}", talking_bundles / "client") as client,
    ):
        assert len(tokens(client.generate(PROMPT, max_new_tokens=3))) == 3
        with (
            Client(full.address, talking_bundles / "client") as alone,
            pytest.raises(ServerBusyError),
        ):
            alone.session()


def test_a_server_that_is_lost_while_it_is_sent_a_conversation_is_left(
    own_server: Callable[..., Server], strict_server: Server, talking_bundles: Path
) -> None:
    """A session that was opened on it is unknown to the next one."""
    first = own_server()
    with (
        proxy(first.address, budget=lambda: 4000) as cutting,
        Client([cutting.address, strict_server.address], talking_bundles / "client") as client,
    ):
        core = SessionCore(client.bundle, tokens=PROMPT * 10)
        opened = run(client._core._open_session(core, 0.0))
        with Session(AsyncSession(opened, client._core._fork_public)) as session:
            assert session.position == len(PROMPT) * 10
            assert cutting.cuts == 1
            session.forward([1])


def test_what_will_never_fit_costs_no_conversation(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server("--kv-memory-per-identity", "1MiB")
    with Client(server.address, talking_bundles / "client") as client:

        def ask(prompt: list[int]) -> int:
            pieces = list(client.generate(prompt, keep=True, max_new_tokens=2))
            assert pieces[0].profile is not None
            return pieces[0].profile.rows

        # nor is there room for a session of the default length, but for what is needed
        assert ask(PROMPT) == len(PROMPT)
        with pytest.raises(ServerBusyError) as refused:
            ask([7] * 3000)
        assert refused.value.retry_after is None
        assert ask(PROMPT) == 1


def test_waiting_for_room_begins_where_there_is_some(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    full, other = own_server("--max-sessions", 1, "--max-open-wait", 3600), own_server()
    with (
        Client(f"{full.address},{other.address}", talking_bundles / "client") as client,
        ThreadPoolExecutor(1) as pool,
        Client(full.address, talking_bundles / "client") as holder,
        holder.session(),
    ):
        # on the full one it would wait until the holder leaves, which is after this
        pool.submit(client.session, wait=3600).result(PATIENCE).close()


def test_a_fork_that_waited_does_not_begin_with_what_its_source_has_become(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server("--max-sessions", 2)

    async def run() -> None:
        async with AsyncClient(server.address, talking_bundles / "client") as client:
            source, other = await client.session(), await client.session()
            await source.forward(PROMPT, rows="none")
            fork = asyncio.create_task(awaited(source.fork(30, wait=50)))
            while not (await client.model_info()).load.waiting_opens:
                await asyncio.sleep(0.01)
            source.rollback(10)
            await source.forward([7] * 30, rows="none")
            await other.close()
            forked = await fork
            assert forked.tokens == tuple(PROMPT[:30])
            found = await forked.forward([1], rows="last")
            await source.close()
            async with client.session() as alone:
                expected = await alone.forward([*PROMPT[:30], 1], rows="last")
            assert abs(found - expected).max() < 1e-4 * abs(expected).max()

    asyncio.run(run())


def test_a_server_of_another_key_does_not_take_the_place(
    own_server: Callable[..., Server],
    talking_checkpoint: Path,
    talking_bundles: Path,
    tmp_path: Path,
) -> None:
    bundles = convert(talking_checkpoint, tmp_path / "other", "--base-seed", 99)
    first, other = own_server(), own_server("--model", bundles / "server")
    target = f"{first.address},{other.address}"
    with Client(target, talking_bundles / "client", patience=1.0) as client:
        pieces = client.generate(PROMPT, max_new_tokens=TOKENS)
        next(pieces)
        first.process.kill()
        with pytest.raises((ConnectionLostError, WrongKeyError)):
            tokens(pieces)


def test_patience_has_an_end(own_server: Callable[..., Server], talking_bundles: Path) -> None:
    only = own_server()
    with Client(only.address, talking_bundles / "client", patience=0.5) as client:
        pieces = client.generate(PROMPT, max_new_tokens=TOKENS)
        next(pieces)
        only.process.kill()
        with pytest.raises(ConnectionLostError):
            tokens(pieces)


def test_a_session_that_somebody_else_took_over_is_not_taken_back(
    strict_server: Server, talking_bundles: Path
) -> None:
    with (
        Client(strict_server.address, talking_bundles / "client") as client,
        Client(strict_server.address, talking_bundles / "client") as thief,
    ):
        session, stolen = client.session(), thief.session()
        session.forward(PROMPT, rows="none")
        stolen.close()
        taken = thief.session()
        core_of(taken).session_id = core_of(session).session_id
        forget_stream(taken)
        taken.open()
        with pytest.raises(Exception, match="another stream"):
            session.forward([1])
        taken.close()
