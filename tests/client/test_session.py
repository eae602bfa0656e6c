"""Sessions over a real connection: resuming, pipelining, logits in every form, both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from stip_client import (
    AsyncClient,
    Client,
    ContextOverflowError,
    HidesNothingWarning,
    RequestError,
    SessionLostError,
)
from stip_client.session.forward_call import LogitsForm
from stip_client.transport.blocking import BlockingStream
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import Server, make_model, run_tool, server_process
from tests.support.sessions.client_session import drop_stream, stream_of
from tests.support.waiting import eventually

PROMPT = [5, 3, 8, 9, 7, 9, 3, 2, 3, 8]


@pytest.fixture
def client(tiny_server: Server, tiny_bundles: Path) -> Iterator[Client]:
    with Client(tiny_server.address, tiny_bundles / "client") as client:
        yield client


@pytest.mark.parametrize("k", [1, 2, 17, 151])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_top_k_is_the_top_of_the_whole_row(client: Client, k: int, dtype: str) -> None:
    with client.session() as session:
        rows = session.forward(PROMPT)
        session.rollback(0)
        logits = session.step(PROMPT, LogitsForm("all", dtype, k)).logits  # type: ignore[arg-type]
    assert logits is not None
    assert logits.indices is not None
    assert logits.log_sum_exp is not None
    expected = -np.sort(-rows, axis=-1)[:, :k]
    tolerance = 2e-3 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(logits.values, expected, rtol=tolerance, atol=tolerance)
    picked = np.take_along_axis(rows, logits.indices.astype(np.int64), axis=-1)
    np.testing.assert_allclose(picked, expected, rtol=1e-5)
    sums = np.log(np.exp(rows.astype(np.float64)).sum(axis=-1))
    np.testing.assert_allclose(logits.log_sum_exp, sums, rtol=1e-5)


@pytest.mark.parametrize("reason", ["TAKEN_OVER", "CANCELLED"])
def test_a_session_that_another_stream_has_taken_over_is_left_to_it(
    client: Client, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive(timeout: float) -> Any:  # noqa: ARG001
        raise SessionLostError("another stream has resumed this session", reason=reason)

    session = client.session()
    monkeypatch.setattr(stream_of(session), "receive", receive)
    with pytest.raises(SessionLostError) as caught:
        session.forward(PROMPT)
    assert caught.value.reason == reason
    monkeypatch.undo()
    session.close()


def test_an_error_leaves_the_session_where_it_stood(client: Client) -> None:
    with client.session() as session:
        session.forward(PROMPT, rows="none")
        before = session.forward([4], rows="last")
        session.rollback(len(PROMPT))
        with pytest.raises(RequestError, match="outside the vocabulary"):
            session.forward([10**6])
        with pytest.raises(RequestError, match="rows is 'first', not one of all, last, none"):
            session.forward([1], rows=cast(Any, "first"))
        with pytest.raises(RequestError):
            session.rollback(len(PROMPT) + 1)
        assert session.position == len(PROMPT)
        assert np.array_equal(session.forward([4], rows="last"), before)


def test_a_broken_stream_is_resumed_by_the_next_call(client: Client) -> None:
    with client.session() as session:
        session.forward(PROMPT, rows="none")
        expected = session.forward([4], rows="last")
        session.rollback(len(PROMPT))
        drop_stream(session)
        assert np.array_equal(session.forward([4], rows="last"), expected)


def test_a_session_cut_off_in_a_call_is_resumed_with_nothing_lost(client: Client) -> None:
    with client.session() as session:
        session.forward(PROMPT, rows="none")
        expected = session.forward([4], rows="last")
        session.rollback(len(PROMPT))
        stream = stream_of(session)
        assert isinstance(stream, BlockingStream)
        stream._call.cancel()
        assert np.array_equal(session.forward([4], rows="last"), expected)


def test_a_parked_session_expires(tiny_bundles: Path) -> None:
    with (
        server_process(tiny_bundles / "server", "--session-ttl", 0) as server,
        Client(server.address, tiny_bundles / "client", patience=0) as client,
        Client(server.address, tiny_bundles / "client") as patient,
    ):
        sessions = [client.session(), patient.session()]
        for session in sessions:
            session.forward(PROMPT, rows="none")
            drop_stream(session)
        eventually(lambda: client.model_info().load.sessions == 0)
        with pytest.raises(SessionLostError):
            sessions[0].forward([4])
        found = sessions[1].forward([4])  # in another session, with the same tokens before it
        with client.session() as undisturbed:
            expected = undisturbed.forward([*PROMPT, 4], rows="last")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_closing_frees_the_session_for_others(tiny_bundles: Path) -> None:
    with (
        server_process(tiny_bundles / "server", "--max-sessions", 1) as server,
        Client(server.address, tiny_bundles / "client") as client,
    ):
        for _ in range(5):
            with client.session() as session:
                session.forward(PROMPT, rows="none")


def test_the_context_is_respected_to_the_last_token(client: Client) -> None:
    with client.session(max_length=len(PROMPT)) as session:
        assert session.max_length == len(PROMPT)
        assert session.forward(PROMPT).shape[0] == len(PROMPT)
        with pytest.raises(ContextOverflowError):
            session.forward([1])
        session.rollback(len(PROMPT) - 1)
        session.forward([1])
    with pytest.raises(ContextOverflowError):
        client.session(max_length=10**6)


def test_generation_stops_at_the_end_of_the_context(client: Client) -> None:
    room = 512
    pieces = list(client.generate([1] * (room - 3), max_new_tokens=50, ignore_eos=True))
    assert len(pieces) == 4
    assert pieces[-1].finish_reason == "length"


def test_the_server_echoes_what_it_received(client: Client) -> None:
    with client.session() as session:
        reply = session.step(PROMPT, LogitsForm("none"), echo=True)
    masked = client.bundle.masked_embeddings(PROMPT[:1])[0]
    plain = client.bundle.embeddings.rows(PROMPT[:1])[0]
    assert list(reply.received) == masked[:10].tolist()
    assert list(reply.received) != plain[:10].tolist()


def test_the_profile_adds_up(client: Client) -> None:
    (first, *rest) = client.generate(PROMPT, max_new_tokens=4, ignore_eos=True, draft="off")
    assert first.profile.rows == len(PROMPT)
    for piece in rest:
        assert piece.profile.rows == 1
        assert piece.profile.compute > 0
        assert min(piece.profile.client, piece.profile.queue, piece.profile.wire) >= 0


def test_abandoning_a_generation_closes_its_session(tiny_bundles: Path) -> None:
    with (
        server_process(tiny_bundles / "server", "--max-sessions", 1) as server,
        Client(server.address, tiny_bundles / "client") as client,
    ):
        pieces = client.generate(PROMPT, max_new_tokens=100, ignore_eos=True)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert len(list(client.generate(PROMPT, max_new_tokens=3, ignore_eos=True))) == 3


def test_the_asynchronous_client_gives_the_same_answers(
    client: Client, tiny_server: Server, tiny_bundles: Path
) -> None:
    with client.session() as session:
        rows = session.forward(PROMPT)
        session.rollback(4)
        redone = session.forward(PROMPT[4:], rows="last")
    tokens = [piece.token_id for piece in client.generate(PROMPT, ignore_eos=True)]

    async def ask() -> None:
        async with AsyncClient(tiny_server.address, tiny_bundles / "client") as other:
            info = await other.model_info()
            assert info.key_id == other.bundle.manifest.key_id
            async with await other.session() as session:
                assert np.array_equal(await session.forward(PROMPT), rows)
                session.rollback(4)
                assert np.array_equal(await session.forward(PROMPT[4:], rows="last"), redone)
                drop_stream(session)
                assert (await session.forward([3], rows="none")).shape == (0, rows.shape[1])
            found = [piece.token_id async for piece in other.generate(PROMPT, ignore_eos=True)]
            assert found == tokens

    asyncio.run(ask())


def test_cancelling_a_task_leaves_the_session_usable(
    client: Client, tiny_server: Server, tiny_bundles: Path
) -> None:
    with client.session() as session:
        expected = session.forward(PROMPT, rows="last")

    async def ask() -> None:
        async with AsyncClient(tiny_server.address, tiny_bundles / "client") as other:
            session = await other.session()
            for delay in (0.0, 0.001, 0.002, 0.005):
                task = asyncio.create_task(session.forward(PROMPT * 30))
                await asyncio.sleep(delay)
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled() or delay > 0  # a fast machine may be done already
                assert session.position == (0 if task.cancelled() else 30 * len(PROMPT))
                session.rollback(0)
            assert np.array_equal(await session.forward(PROMPT, rows="last"), expected)
            await session.close()

    asyncio.run(ask())


def test_the_client_says_loudly_that_scheme_none_hides_nothing(
    tmp_path: Path, tiny_checkpoint: RandomCheckpoint
) -> None:
    bundles = make_model(tmp_path, tiny_checkpoint, "--scheme", "none")
    with pytest.warns(HidesNothingWarning, match="hides nothing"):
        Client("localhost:1", bundles / "client").close()
    done = run_tool(
        "stip_client",
        "generate",
        *("--server", "localhost:1", "--bundle", bundles / "client", "--prompt", "x"),
    )
    assert "hides nothing" in done.stderr


def test_a_closed_session_is_closed(client: Client) -> None:
    session = client.session()
    session.close()
    session.close()
    with pytest.raises(RequestError, match="closed"):
        session.forward(PROMPT)


def test_token_ids_may_be_numpy_integers_and_nothing_else_is_taken_for_them(client: Client) -> None:
    plain = [piece.token_id for piece in client.generate(PROMPT, ignore_eos=True)]
    array = np.array(PROMPT)
    assert [piece.token_id for piece in client.generate(array, ignore_eos=True)] == plain  # type: ignore[arg-type]
    for prompt in ([1, {"role": "user", "content": "x"}], [1.5], []):
        with pytest.raises(RequestError):
            next(client.generate(prompt))  # type: ignore[arg-type,call-overload]
