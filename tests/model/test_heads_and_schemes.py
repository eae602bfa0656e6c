"""Every scheme with every head answers as unmodified mlx-lm does: permutations exactly, rotations
but for rounding."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_client import AsyncClient, Client, RequestError, WrongKeyError
from stip_client.bundle.head import ClientHead
from stip_client.session.forward_call import ForwardCall, LogitsForm
from tests.support.models.oracle import Oracle, assert_equal_logits, relative_error
from tests.support.models.random_models import MODELS
from tests.support.parties import BASE_SEED, convert, server_process

SCHEMES, HEADS = ("permutation", "rotation"), ("server", "client", "sealed")
TIED, UNTIED = "qwen2-tied-odd-heads", "llama-untied-llama3-scaling-head-dim"
# test_oracle.py has permutations with the head at the server. A sealed vocabulary is the same
# whatever the model; a head at the client is stored in each type, and tied or not.
CASES = [
    *product(MODELS, ("rotation",), ("server",)),
    *product(MODELS, SCHEMES, ("client",)),
    *product((TIED, UNTIED), SCHEMES, ("sealed",)),
]
# of the type of the rows on the wire, over three layers
WIRE_ROUNDING = 20 * 2**-11


def converted(checkpoint: Path, output: Path, scheme: str, head: str, *arguments: object) -> Path:
    key = () if scheme == "none" else ("--base-seed", BASE_SEED)
    return convert(checkpoint, output, "--scheme", scheme, "--head", head, *key, *arguments)


@dataclass(frozen=True)
class Served:
    """A converted model behind a running server, and the oracle of its checkpoint."""

    address: str
    bundle: Path
    scheme: str
    oracle: Oracle
    vocab_size: int

    def client(self, dtype: str = "float32") -> Client:
        return Client(self.address, self.bundle, dtype=dtype)

    def tokens(self, count: int, seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return [int(token) for token in rng.integers(0, self.vocab_size, count)]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    model, scheme, head = request.param
    folder = tmp_path_factory.mktemp("served")
    source = MODELS[model].write(folder / "checkpoint")
    # what a rotation rounds to is the bundle's type
    dtype = ("--dtype", "float32") if scheme == "rotation" else ()
    bundles = converted(source, folder / "bundles", scheme, head, *dtype)
    with server_process(bundles / "server", "--max-step-rows", 50) as server:
        size = MODELS[model].vocab_size
        yield Served(server.address, bundles / "client", scheme, Oracle(source), size)


def test_prefill_decode_and_rollback(served: Served) -> None:
    prompt, other = served.tokens(70, seed=1), served.tokens(6, seed=2)  # 50 rows a step
    expected = served.oracle.logits(prompt)
    with served.client() as client, client.session() as session:
        assert_equal_logits(session.forward(prompt), expected)
        session.rollback(0)
        assert session.forward(prompt[:9], rows="none").shape == (0, served.vocab_size)
        for position in range(9, 16):
            token = prompt[position : position + 1]
            assert_equal_logits(session.forward(token), expected[position : position + 1])
        assert_equal_logits(session.forward(prompt[16:], rows="last"), expected[-1:])
        session.rollback(12)
        branch = served.oracle.logits(prompt[:12] + other)
        assert_equal_logits(session.forward(other), branch[12:])


def test_concurrent_sessions_answer_as_alone_and_greedy_replies_are_the_oracles(
    served: Served,
) -> None:
    prompts = [served.tokens(4 + 13 * index, seed=20 + index) for index in range(2)]

    async def ask(client: AsyncClient, prompt: list[int]) -> tuple[NDArray[np.float32], list[int]]:
        async with await client.session() as session:
            logits = await session.forward(prompt)
        pieces = client.generate(prompt, max_new_tokens=12, ignore_eos=True)
        return logits, [piece.token_id async for piece in pieces]

    async def ask_all() -> list[tuple[NDArray[np.float32], list[int]]]:
        async with AsyncClient(served.address, served.bundle, dtype="float32") as client:
            return await asyncio.gather(*(ask(client, prompt) for prompt in prompts))

    for prompt, (logits, tokens) in zip(prompts, asyncio.run(ask_all()), strict=True):
        assert_equal_logits(logits, served.oracle.logits(prompt))
        assert tokens == served.oracle.greedy(prompt, 12)


def test_float16_on_the_wire(served: Served) -> None:
    """The embeddings are exact in float16; once they are rotated, it rounds them."""
    prompt = served.tokens(20, seed=3)
    with served.client("float16") as client, client.session() as session:
        error = relative_error(session.forward(prompt), served.oracle.logits(prompt))
    assert error < (WIRE_ROUNDING if served.scheme == "rotation" else 1e-4)


@pytest.mark.filterwarnings("ignore::stip_client.HidesNothingWarning")
def test_a_rotation_in_bfloat16_costs_at_most_as_much_again_as_bfloat16(tmp_path: Path) -> None:
    source = MODELS[UNTIED].write(tmp_path / "checkpoint")
    oracle = Oracle(source)
    prompts = [np.random.default_rng(seed).integers(0, 151, 40).tolist() for seed in range(4)]
    errors = {}
    for scheme in ("none", "rotation"):
        bundles = converted(source, tmp_path / scheme, scheme, "server", "--dtype", "bfloat16")
        with (
            server_process(bundles / "server", "--dtype", "bfloat16") as server,
            Client(server.address, bundles / "client") as client,
        ):
            differences = []
            for prompt in prompts:
                with client.session() as session:
                    differences.append(session.forward(prompt) - oracle.logits(prompt))
            assert np.isfinite(differences).all()
            errors[scheme] = float(np.sqrt(np.mean(np.square(differences))))
    assert 0 < errors["rotation"] <= 2 * errors["none"]


@dataclass(frozen=True)
class ThreeHeads:
    """One model with one key and each of the heads, behind a server each."""

    folder: Path
    addresses: dict[str, str]

    def client(self, bundle: str, server: str) -> Client:
        return Client(self.addresses[server], self.folder / bundle / "client")


@pytest.fixture(scope="module", params=SCHEMES)
def three_heads(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreeHeads]:
    folder = tmp_path_factory.mktemp("heads")
    source = MODELS[TIED].write(folder / "checkpoint")
    for head in HEADS:
        converted(source, folder / head, request.param, head)
    with (
        server_process(folder / "server" / "server") as server,
        server_process(folder / "client" / "server") as client,
        server_process(folder / "sealed" / "server") as sealed,
    ):
        addresses = dict(zip(HEADS, (server.address, client.address, sealed.address), strict=True))
        yield ThreeHeads(folder, addresses)


COMMON = {"max_new_tokens": 40, "seed": 4, "ignore_eos": True}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.9, "top_p": 0.95, "top_logprobs": 4},
        {"temperature": 1.2, "top_k": 9, "repetition_penalty": 1.1},
        {"temperature": 0.0, "top_logprobs": 3, "draft": 3},
    ],
    ids=str,
)
def test_sampled_replies_are_the_same_whatever_the_head(
    three_heads: ThreeHeads, options: dict[str, float]
) -> None:
    replies = {}
    for head in HEADS:
        with three_heads.client(head, head) as client:
            replies[head] = list(client.generate([5, 6, 7, 5, 6], **COMMON, **options))  # type: ignore[arg-type]
    for head, rounding in (("sealed", 1e-4), ("client", 0.02)):  # from float16 hidden states
        for found, expected in zip(replies[head], replies["server"], strict=True):
            assert found.token_id == expected.token_id
            assert found.logprob == pytest.approx(expected.logprob, abs=rounding)
            likeliest, wanted = dict(found.top_logprobs), dict(expected.top_logprobs)
            assert likeliest == pytest.approx(wanted, abs=rounding)


@pytest.mark.parametrize(("bundle", "server"), list(permutations(HEADS, 2)))
def test_a_client_of_another_head_is_refused_at_open(
    three_heads: ThreeHeads, bundle: str, server: str
) -> None:
    with (
        three_heads.client(bundle, server) as client,
        pytest.raises(WrongKeyError, match=f"this model has head {server}:") as caught,
    ):
        client.session()
    assert caught.value.reason == "WRONG_HEAD"


def test_a_server_without_a_head_is_asked_for_no_top_k_and_refuses_it(
    three_heads: ThreeHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = LogitsForm("last", top_k=3)
    with three_heads.client("client", "client") as client, client.session() as session:
        reply = session.step([1, 2], wanted)
        assert reply.logits is not None and reply.logits.indices is None
        assert reply.logits.values.shape == (1, 151)
        monkeypatch.setattr(ForwardCall, "_top_k", lambda _, form: form.top_k)
        with pytest.raises(RequestError, match="top_k is 3") as caught:
            session.step([3], wanted)
        assert caught.value.reason == "TOP_K_WITHOUT_HEAD"


def test_other_sessions_go_on_while_logits_are_made(
    three_heads: ThreeHeads, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, threads = ClientHead.logits, set()

    def logits(self: ClientHead, hidden_states: NDArray[np.float32]) -> NDArray[np.float32]:
        threads.add(threading.current_thread())
        return original(self, hidden_states)

    monkeypatch.setattr(ClientHead, "logits", logits)

    async def ask() -> None:
        bundle = three_heads.folder / "client" / "client"
        async with (
            AsyncClient(three_heads.addresses["client"], bundle) as client,
            client.session() as session,
        ):
            await session.forward([1, 2, 3])

    asyncio.run(ask())
    assert threads and threading.main_thread() not in threads


def test_answers_that_are_hidden_states_are_small(three_heads: ThreeHeads) -> None:
    """Two bytes a value, whatever the vocabulary's size."""
    with three_heads.client("client", "client") as client:
        *_, last = client.generate([5, 6], max_new_tokens=3, ignore_eos=True, draft="off")
    assert last.profile is not None
    assert 2 * 90 < last.profile.bytes_down < 2 * 90 + 60
