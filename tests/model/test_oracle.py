"""Over real gRPC, the permuted model's answers equal those of unmodified mlx-lm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_client import AsyncClient, Client
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.models.random_models import MODELS
from tests.support.parties import convert, make_model, server_process


@dataclass(frozen=True)
class Served:
    """A converted model behind a running server, and the oracle of its checkpoint."""

    address: str
    client: Client
    bundle: Path
    oracle: Oracle
    vocab_size: int

    def tokens(self, count: int, seed: int = 0) -> list[int]:
        rng = np.random.default_rng(seed)
        return [int(token) for token in rng.integers(0, self.vocab_size, count)]


@pytest.fixture(scope="module", params=list(MODELS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    model: RandomCheckpoint = MODELS[request.param]
    bundles = make_model(folder, model)
    with (
        server_process(bundles / "server", "--max-step-rows", 50) as server,
        Client(server.address, bundles / "client") as client,
    ):
        oracle = Oracle(folder / "checkpoint")
        yield Served(server.address, client, bundles / "client", oracle, model.vocab_size)


def test_prefill_in_one_piece(served: Served) -> None:
    prompt = served.tokens(48)
    with served.client.session() as session:
        assert_equal_logits(session.forward(prompt), served.oracle.logits(prompt))


def test_prefill_in_chunks_over_the_servers_limit(served: Served) -> None:
    prompt = served.tokens(170, seed=1)  # 50 rows a step: four chunks, pipelined
    expected = served.oracle.logits(prompt)
    with served.client.session() as session:
        assert_equal_logits(session.forward(prompt), expected)
    with served.client.session() as session:
        assert_equal_logits(session.forward(prompt, rows="last"), expected[-1:])


def test_prefill_in_pieces_by_hand(served: Served) -> None:
    prompt = served.tokens(40, seed=2)
    expected = served.oracle.logits(prompt)
    with served.client.session() as session:
        assert session.forward(prompt[:7], rows="none").shape == (0, served.vocab_size)
        assert_equal_logits(session.forward(prompt[7:8]), expected[7:8])
        assert_equal_logits(session.forward(prompt[8:31], rows="last"), expected[30:31])
        assert_equal_logits(session.forward(prompt[31:]), expected[31:])


def test_64_decode_steps(served: Served) -> None:
    prompt = served.tokens(11, seed=3)
    expected = served.oracle.greedy(prompt, 64)
    pieces = list(served.client.generate(prompt, max_new_tokens=64, ignore_eos=True))
    assert [piece.token_id for piece in pieces] == expected

    fed = [prompt, *([token] for token in expected)]
    wanted = served.oracle.stepwise_logits(fed)
    with served.client.session() as session:
        for tokens, logits in zip(fed, wanted, strict=True):
            assert_equal_logits(session.forward(tokens, rows="last"), logits[-1:])


def test_rollback_and_redo(served: Served) -> None:
    first, second = served.tokens(30, seed=4), served.tokens(20, seed=5)
    with served.client.session() as session:
        session.forward(first, rows="none")
        session.forward(second, rows="none")
        session.rollback(12)
        branch = first[:12] + second
        assert_equal_logits(session.forward(second), served.oracle.logits(branch)[12:])
        session.rollback(0)
        assert_equal_logits(session.forward(first), served.oracle.logits(first))
        session.rollback(29)
        assert_equal_logits(session.forward(first[29:]), served.oracle.logits(first)[29:])


def test_four_interleaved_sessions(served: Served) -> None:
    prompts = [served.tokens(5 + 9 * index, seed=10 + index) for index in range(4)]
    expected = [served.oracle.greedy(prompt, 20) for prompt in prompts]
    sessions = [served.client.session() for _ in prompts]
    chosen: list[list[int]] = [[] for _ in prompts]
    feed = prompts
    for _ in range(20):
        for index, session in enumerate(sessions):
            token = int(session.forward(feed[index], rows="last").argmax())
            chosen[index].append(token)
        feed = [[tokens[-1]] for tokens in chosen]
    for session in sessions:
        session.close()
    assert chosen == expected


def test_four_concurrent_sessions_are_batched_and_answer_as_alone(served: Served) -> None:
    prompts = [served.tokens(4 + 13 * index, seed=20 + index) for index in range(4)]
    expected = [served.oracle.logits(prompt) for prompt in prompts]
    continuations = [served.oracle.greedy(prompt, 24) for prompt in prompts]

    async def ask(client: AsyncClient, prompt: list[int]) -> tuple[NDArray[np.float32], list[int]]:
        async with await client.session() as session:
            logits = await session.forward(prompt)
        pieces = client.generate(prompt, max_new_tokens=24, ignore_eos=True)
        return logits, [piece.token_id async for piece in pieces]

    async def ask_all() -> list[tuple[NDArray[np.float32], list[int]]]:
        async with AsyncClient(served.address, served.bundle) as client:
            return await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    for (logits, tokens), wanted, continuation in zip(
        asyncio.run(ask_all()), expected, continuations, strict=True
    ):
        assert_equal_logits(logits, wanted)
        assert tokens == continuation


@pytest.mark.filterwarnings("ignore::stip_client.HidesNothingWarning")
@pytest.mark.parametrize(
    "arguments",
    [("--blocks", 1), ("--blocks", 30), ("--blocks", 90), ("--scheme", "none")],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_other_block_counts_and_no_permutation(
    tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    model = MODELS["qwen2-tied-odd-heads"]
    bundles = make_model(tmp_path, model, *arguments)
    prompt = list(range(25))
    with (
        server_process(bundles / "server") as server,
        Client(server.address, bundles / "client") as client,
        client.session() as session,
    ):
        expected = Oracle(tmp_path / "checkpoint").logits(prompt)
        assert_equal_logits(session.forward(prompt), expected)


@pytest.mark.parametrize("wire", ["float16", "bfloat16", "float32"])
def test_every_wire_type(served: Served, wire: str) -> None:
    prompt = served.tokens(9, seed=30)
    with (
        Client(served.address, served.bundle, dtype=wire) as client,
        client.session() as session,
    ):
        # the embeddings are exact in every wire type
        assert_equal_logits(session.forward(prompt), served.oracle.logits(prompt))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_stays_close(tmp_path: Path, dtype: str) -> None:
    """The server's half-precision types round; they must not do more than that."""
    model = MODELS["llama-untied-llama3-scaling-head-dim"]
    checkpoint = model.write(tmp_path / "checkpoint")
    bundles = convert(checkpoint, tmp_path / "bundles")
    prompt = list(range(20))
    with (
        server_process(bundles / "server", "--dtype", dtype) as server,
        Client(server.address, bundles / "client") as client,
        client.session() as session,
    ):
        found = session.forward(prompt)
    expected = Oracle(checkpoint).logits(prompt)
    assert np.isfinite(found).all()
    # a few units in the last place of the type, accumulated over three layers
    ulp = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert np.abs(found - expected).max() / np.abs(expected).max() < 20 * ulp
