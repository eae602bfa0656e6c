"""Prompts that continue a conversation send only what is new; the sessions kept are few."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_client import AsyncClient, Client, RequestError, SamplingParameters, ServerBusyError
from stip_client.sampling.sampler import Sampler
from stip_client.session.generation import Piece
from stip_client.transport.wire_tensors import LogitsArrays
from tests.support.parties import Server, server_process

SYSTEM = list(range(40, 80))


def ask(
    client: Client, prompt: list[int], count: int = 5, **options: object
) -> tuple[int, list[int]]:
    """How many tokens a reply sent first, and the reply."""
    pieces = list(client.generate(prompt, keep=True, max_new_tokens=count, **options))  # type: ignore[arg-type]
    assert pieces[0].profile is not None
    return pieces[0].profile.rows, tokens(pieces)


def tokens(pieces: list[Piece]) -> list[int]:
    return [piece.token_id for piece in pieces]


def alone(client: Client, prompt: list[int], count: int = 5) -> list[int]:
    return tokens(list(client.generate(prompt, max_new_tokens=count)))


@pytest.fixture
def client(tiny_server: Server, tiny_bundles: Path) -> Iterator[Client]:
    with Client(tiny_server.address, tiny_bundles / "client", max_conversations=3) as client:
        yield client
        assert len(client._core._sessions) <= 3
    assert sessions_of(tiny_server, tiny_bundles) == 0


def sessions_of(server: Server, bundles: Path) -> int:
    with Client(server.address, bundles / "client") as client:
        return client.model_info().load.sessions


def test_a_conversation_that_goes_on_sends_only_what_is_new(client: Client) -> None:
    prompt = [*SYSTEM, 1, 2, 3]
    for turn in range(4):
        expected = alone(client, prompt)
        rows, reply = ask(client, prompt)
        assert reply == expected
        # the reply's last token has never been sent back
        assert rows == (len(prompt) if turn == 0 else 4)
        prompt = prompt + reply + [turn, turn + 1, turn + 2]
    assert client.model_info().load.sessions == 1


def test_the_same_prompt_again_sends_one_token(client: Client) -> None:
    prompt = [*SYSTEM, 1, 2, 3]
    first, again = ask(client, prompt), ask(client, prompt)
    assert (first[0], again[0]) == (len(prompt), 1) and first[1] == again[1]


def test_an_edited_conversation_sends_what_follows_the_edit(client: Client) -> None:
    prompt = [*SYSTEM, 1, 2, 3]
    reply = ask(client, prompt)[1]
    edited = [*prompt, *reply[:2], 9, 9]
    rows, found = ask(client, edited)
    assert rows == 2 and found == alone(client, edited)


def test_conversations_that_begin_alike_share_what_they_have_in_common(client: Client) -> None:
    """The first one goes on as if there were no other."""
    one = SYSTEM + list(range(100, 150))
    reply = ask(client, one)[1]
    other = [*SYSTEM, 7, 8]
    rows, found = ask(client, other)
    assert rows == 2 and found == alone(client, other)
    longer = one + reply + [5]
    rows, found = ask(client, longer)
    assert rows == 2 and found == alone(client, longer)
    assert client.model_info().load.sessions == 2


def test_a_few_tokens_in_common_are_no_conversation(client: Client) -> None:
    ask(client, [*SYSTEM[:3], *range(100, 140)])
    assert ask(client, [*SYSTEM[:3], 7, 8])[0] == 5


def test_no_more_sessions_are_kept_than_allowed(client: Client) -> None:
    prompts = [[seed] * 30 + [1, 2, 3] for seed in range(6)]
    for prompt in prompts:
        ask(client, prompt)
    assert client.model_info().load.sessions == 3
    assert ask(client, prompts[-1])[0] == 1  # the latest are kept
    assert ask(client, prompts[0])[0] == 33


def test_a_client_may_keep_none(tiny_server: Server, tiny_bundles: Path) -> None:
    with Client(tiny_server.address, tiny_bundles / "client", max_conversations=0) as client:
        assert ask(client, SYSTEM)[0] == ask(client, SYSTEM)[0] == len(SYSTEM)
        assert client.model_info().load.sessions == 0


def test_replies_at_once_do_not_share_a_session(client: Client) -> None:
    prompt = [*SYSTEM, 1, 2, 3]
    expected = alone(client, prompt, 8)
    replies = [client.generate(prompt, keep=True, max_new_tokens=8) for _ in range(5)]
    found = list(zip(*replies, strict=True))
    for each in zip(*found, strict=True):
        assert tokens(list(each)) == expected
    # while one is under way the others fork it rather than compute the prompt again
    profiles = [piece.profile for piece in found[0]]
    assert [each.rows for each in profiles if each is not None] == [len(prompt), 1, 1, 1, 1]
    assert client.model_info().load.sessions == 3


@pytest.mark.parametrize("when", [1, 3])
def test_a_reply_that_is_given_up_leaves_its_session_usable(client: Client, when: int) -> None:
    prompt = [*SYSTEM, 1, 2, 3]
    expected = alone(client, prompt)
    pieces = client.generate(prompt, keep=True, max_new_tokens=50)
    for _ in range(when):
        next(pieces)
    pieces.close()
    assert client.model_info().load.sessions == 1
    assert ask(client, prompt) == (1, expected)


def test_a_cancelled_task_leaves_its_session_usable(
    tiny_server: Server, tiny_bundles: Path
) -> None:
    prompt = [*SYSTEM, 1, 2, 3]

    found: list[Piece] = []

    async def collect(client: AsyncClient, count: int) -> list[Piece]:
        found.clear()
        options = {"max_new_tokens": count, "ignore_eos": True, "temperature": 1.0, "seed": 1}
        async for piece in client.generate(prompt, keep=True, **options):  # type: ignore[arg-type]
            found.append(piece)
        return list(found)

    async def run() -> None:
        async with AsyncClient(tiny_server.address, tiny_bundles / "client") as client:
            expected = tokens(await collect(client, 5))
            for pieces in range(8):
                found.clear()
                task = asyncio.create_task(collect(client, 300))
                while len(found) < pieces:
                    await asyncio.sleep(0)
                for _ in range(pieces):  # another moment on the way to the next piece
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert tokens(await collect(client, 5)) == expected

    asyncio.run(run())
    assert sessions_of(tiny_server, tiny_bundles) == 0


def test_a_conversation_that_outgrows_its_session_moves_into_a_longer_one(client: Client) -> None:
    client.model_info()
    limits = client._core._limits
    assert limits is not None
    limits.default_length = 64  # so much a session has room for unless more is needed
    prompt = [*SYSTEM, 1, 2, 3]
    reply = ask(client, prompt)[1]
    longer = prompt + reply + [4] * 60
    rows, found = ask(client, longer)
    assert rows == 61
    assert client.model_info().load.sessions == 1
    assert found == alone(client, longer)


def test_sessions_kept_make_room_for_a_new_one(tiny_bundles: Path) -> None:
    with (
        server_process(tiny_bundles / "server", "--max-sessions", 2) as server,
        Client(server.address, tiny_bundles / "client") as client,
    ):
        for seed in range(4):
            ask(client, [seed] * 30)
        assert client.model_info().load.sessions == 2
        with client.session(), client.session(), pytest.raises(ServerBusyError):
            ask(client, SYSTEM)


def test_a_prompt_that_is_refused_leaves_nothing_behind(client: Client) -> None:
    for prompt in ([10**6], [-1], []):
        with pytest.raises(RequestError):
            ask(client, prompt)
    with pytest.raises(TypeError, match="temprature"):
        ask(client, SYSTEM, temprature=1.0)
    with pytest.raises(RequestError, match="stop"):
        ask(client, SYSTEM, stop=[""])
    assert client.model_info().load.sessions == 0


# -- what the server is asked for -------------------------------------------------------------


def test_a_reply_from_small_answers_equals_one_from_whole_rows(client: Client) -> None:
    """Sampling in every way, drawn from a distribution so flat that some draws need whole rows."""
    for number, options in enumerate(
        (
            {"temperature": 1.0},
            {"temperature": 2.5, "top_p": 0.95},
            {"temperature": 0.7, "min_p": 0.05},
            {"temperature": 5.0, "top_k": 140},
        )
    ):
        pieces = list(
            client.generate(SYSTEM, max_new_tokens=40, seed=number, ignore_eos=True, **options)  # type: ignore[arg-type]
        )
        sampler = Sampler(SamplingParameters(seed=number, **options), 151)  # type: ignore[arg-type]
        with client.session() as session:
            pending, expected = SYSTEM, []
            for _ in range(40):
                choice = sampler.sample(LogitsArrays(session.forward(pending, rows="last")))
                assert choice is not None
                expected.append(choice.token_id)
                pending = [choice.token_id]
        assert tokens(pieces) == expected


def test_logits_processors_and_top_logprobs_see_the_model_s_own_logits(client: Client) -> None:
    rows: list[NDArray[np.float32]] = []

    def forbid_the_likeliest(
        token_ids: tuple[int, ...], logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        assert token_ids[: len(SYSTEM)] == tuple(SYSTEM)
        rows.append(logits.copy())
        logits[logits.argmax()] = -np.inf
        return logits

    options = {"max_new_tokens": 3, "top_logprobs": 2, "ignore_eos": True}
    pieces = list(client.generate(SYSTEM, logits_processors=[forbid_the_likeliest], **options))  # type: ignore[arg-type]
    with client.session() as session:
        first = session.forward(SYSTEM, rows="last")[0]
    np.testing.assert_allclose(rows[0], first, rtol=0, atol=1e-5 * np.abs(first).max())
    logprobs = first.astype(np.float64) - np.log(np.exp(first.astype(np.float64)).sum())
    best, second = np.argsort(-first)[:2]
    assert pieces[0].token_id == second
    assert [token for token, _ in pieces[0].top_logprobs] == [best, second]
    np.testing.assert_allclose(
        [logprob for _, logprob in pieces[0].top_logprobs], logprobs[[best, second]], atol=1e-4
    )


def test_importing_the_client_pulls_in_no_mlx_and_no_extra() -> None:
    import subprocess
    import sys

    code = (
        "import sys, stip_client; "
        "print(*{'mlx', 'starlette', 'uvicorn', 'gradio', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_asynchronous_session_needs_no_second_await(
    tiny_server: Server, tiny_bundles: Path
) -> None:
    async def run() -> None:
        async with AsyncClient(tiny_server.address, tiny_bundles / "client") as client:
            async with client.session() as session:
                whole = await session.forward([1, 2, 3])
                async with session.fork(2) as fork:
                    again = await fork.forward([3])
                np.testing.assert_allclose(again[0], whole[2], rtol=0, atol=1e-4)
            async with await client.session() as session:
                await session.forward([1])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(run())


def test_a_reply_under_way_is_not_disturbed_by_one_that_shares_its_beginning(
    tiny_server: Server, tiny_bundles: Path
) -> None:
    """In mid-step as well: many at once, each of which forks or continues what there is."""
    prompts = [[*SYSTEM, number % 3, 1, 2] for number in range(9)]

    async def collect(client: AsyncClient, prompt: list[int]) -> list[int]:
        pieces = client.generate(prompt, keep=True, max_new_tokens=30, ignore_eos=True)
        return [piece.token_id async for piece in pieces]

    async def run() -> None:
        target, bundle = tiny_server.address, tiny_bundles / "client"
        async with AsyncClient(target, bundle, patience=0, max_conversations=4) as client:
            expected = [await collect(client, prompt) for prompt in prompts]
            for _ in range(3):
                tasks = [asyncio.create_task(collect(client, prompt)) for prompt in prompts]
                assert await asyncio.gather(*tasks) == expected

    asyncio.run(run())
    assert sessions_of(tiny_server, tiny_bundles) == 0


def test_a_session_that_makes_room_is_not_continued_meanwhile(
    tiny_server: Server, tiny_bundles: Path
) -> None:
    async def converse(client: AsyncClient, number: int) -> None:
        prompt = [number] * 20
        for turn in range(30):
            pieces = client.generate(prompt, keep=True, max_new_tokens=2, ignore_eos=True)
            prompt = prompt + [piece.token_id async for piece in pieces] + [turn]
            await asyncio.sleep(0.001 * (number % 3))

    async def run() -> None:
        target, bundle = tiny_server.address, tiny_bundles / "client"
        async with AsyncClient(target, bundle, patience=0, max_conversations=2) as client:
            await asyncio.gather(*(converse(client, number) for number in range(6)))

    asyncio.run(run())
