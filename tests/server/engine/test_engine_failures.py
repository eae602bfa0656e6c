"""The engine when steps are cancelled, fail or lose their keys and values, and when it dies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from stip_model.operations.mlx import MlxOperations
from stip_server.engine.step import StepOutcome
from stip_server.errors import ServiceError, reason_name
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.servers.running_engine import RunningEngine, logits_of, lose
from tests.support.waiting import PATIENCE

Start = Callable[..., RunningEngine]
CHUNK = 20
BAD = 13  # rows of a step that fails


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 151, count)]


A, B = tokens(100, 1), tokens(60, 2)


def failed(outcome: StepOutcome) -> tuple[str, int | None]:
    """The reason of a step's failure, and the length that it left the session at."""
    assert isinstance(outcome.error, ServiceError)
    assert outcome.logits is None
    return reason_name(outcome.error.reason), outcome.length


def assert_goes_on(
    running: RunningEngine, oracle: Oracle, session: str, prefix: Sequence[int]
) -> None:
    """The session holds a prefix, and answers on it."""
    outcome = running.run(session, len(prefix), [7, 8])
    assert_equal_logits(logits_of(outcome), oracle.logits([*prefix, 7, 8])[-2:])


def fail_steps(rows: int) -> Callable[[Sequence[Any]], None]:
    def strike(runnable: Sequence[Any]) -> None:
        if any(chunk.step.num_rows == rows for chunk, _ in runnable):
            raise RuntimeError("injected")

    return strike


# -- cancelled -----------------------------------------------------------------------------


def test_a_step_cancelled_while_it_is_computed_stops_after_that_chunk(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.within.close()
    step = running.submit("a", 0, A)
    running.within.await_arrival()
    running.cancel("a")
    assert not step.done()
    running.within.open()
    assert failed(step.result(PATIENCE)) == ("CANCELLED", CHUNK)
    assert running.iterations == [[("a", 0, CHUNK)]]
    assert_goes_on(running, tiny_oracle, "a", A[:CHUNK])


def test_a_step_cancelled_between_two_of_its_chunks_is_answered_at_once(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.between.close()
    step = running.submit("a", 0, A)
    running.between.await_arrival()
    running.cancel("a")
    assert failed(step.result(PATIENCE)) == ("CANCELLED", CHUNK)
    running.between.open()
    assert_goes_on(running, tiny_oracle, "a", A[:CHUNK])
    assert running.iterations == [[("a", 0, CHUNK)], [("a", CHUNK, 2)]]


def test_a_step_cancelled_before_it_begins_leaves_the_session_as_it_was(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.run("a", 0, A)
    running.occupy()
    steps = [running.submit("a", 10, B), running.submit("a", 70, [1])]
    others = running.submit("b", 0, B)
    running.cancel("a")
    for step in steps:
        assert failed(step.result(0)) == ("CANCELLED", None)
    running.within.open()
    assert_equal_logits(logits_of(others.result(PATIENCE)), tiny_oracle.logits(B))
    assert_goes_on(running, tiny_oracle, "a", A)


def test_the_last_chunk_of_a_cancelled_step_is_answered(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.within.close()
    step, next_step = running.submit("a", 0, A), running.submit("a", 100, [1])
    running.within.await_arrival()
    running.cancel("a")
    running.within.open()
    assert_equal_logits(logits_of(step.result(PATIENCE)), tiny_oracle.logits(A))
    assert failed(next_step.result(PATIENCE)) == ("CANCELLED", None)
    assert_goes_on(running, tiny_oracle, "a", A)


def test_a_session_released_while_it_is_computed_is_gone_after_that_chunk(
    start_engine: Start,
) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.within.close()
    step = running.submit("a", 0, A)
    running.within.await_arrival()
    running.release("a")
    running.within.open()
    assert failed(step.result(PATIENCE)) == ("CANCELLED", CHUNK)
    running.run("b", 0, [1])
    assert running.engine._caches._caches.keys() == {b"b"}


def test_of_a_session_released_during_its_last_chunk_nothing_is_kept(start_engine: Start) -> None:
    running = start_engine()
    running.within.close()
    step = running.submit("a", 0, A)
    running.within.await_arrival()
    running.release("a")
    running.within.open()
    assert step.result(PATIENCE).error is None
    running.settle()
    for owner in (running.engine._caches, running.engine._scheduler):
        kept = [name for name, each in vars(owner).items() if isinstance(each, dict) and each]
        assert not kept


# -- failed --------------------------------------------------------------------------------


def test_a_step_that_fails_fails_alone_and_leaves_its_session_at_its_position(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.run("a", 0, A)
    running.run("b", 0, B)
    running.strike = fail_steps(BAD)
    running.occupy()
    bad, good = running.submit("a", 40, B[:BAD]), running.submit("b", 30, [5, 6])
    running.within.open()
    assert failed(bad.result(PATIENCE)) == ("ENGINE_FAILED", 40)
    rows = logits_of(good.result(PATIENCE))
    assert_equal_logits(rows, tiny_oracle.logits([*B[:30], 5, 6])[-2:])
    assert_goes_on(running, tiny_oracle, "a", A[:40])


def test_a_step_that_fails_in_a_later_chunk_keeps_the_earlier_ones(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine(max_batch_rows=CHUNK)

    def strike(runnable: Sequence[Any]) -> None:
        if any(chunk.start == 2 * CHUNK for chunk, _ in runnable):
            raise RuntimeError("injected")

    running.strike = strike
    running.within.close()
    steps = [running.submit("a", 0, A), running.submit("a", len(A), [1])]
    running.within.open()
    assert failed(steps[0].result(PATIENCE)) == ("ENGINE_FAILED", 2 * CHUNK)
    # it would have followed the one that failed
    assert failed(steps[1].result(PATIENCE)) == ("POSITION_BEYOND_END", 2 * CHUNK)
    assert_goes_on(running, tiny_oracle, "a", A[: 2 * CHUNK])


def test_a_step_cancelled_while_it_fails_is_answered_once(start_engine: Start) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.strike = fail_steps(len(A))
    running.within.close()
    step = running.submit("a", 0, A)
    running.within.await_arrival()
    running.cancel("a")
    running.within.open()
    assert failed(step.result(PATIENCE)) == ("ENGINE_FAILED", 0)
    running.run("b", 0, [1])
    assert running.engine.alive


# -- lost ----------------------------------------------------------------------------------


def test_lost_keys_and_values_are_lost_to_the_session_and_its_forks_alone(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.run("a", 0, A)
    running.run("b", 0, B)
    for fork in ("written", "borrowing"):
        running.fork("a", fork, 50)
    running.run("written", 50, [7, 8])
    running.strike = lambda runnable: lose(runnable, "a")
    running.occupy()
    bad, good = running.submit("a", 100, [1]), running.submit("b", 60, [7, 8])
    running.within.open()
    assert failed(bad.result(PATIENCE)) == ("CACHE_LOST", 0)
    assert_equal_logits(logits_of(good.result(PATIENCE)), tiny_oracle.logits([*B, 7, 8])[-2:])
    running.strike = lambda _: None
    assert_goes_on(running, tiny_oracle, "written", A[:50])
    for session in ("a", "borrowing"):
        assert failed(running.run(session, 0, [1])) == ("CACHE_LOST", 0)
    running.fork("a", "late", 10)
    assert failed(running.run("late", 10, [1])) == ("CACHE_LOST", 0)
    for session in ("a", "borrowing", "late"):
        running.release(session)
    assert_goes_on(running, tiny_oracle, "a", [])


def test_a_fork_of_what_is_not_there_is_lost_rather_than_empty(start_engine: Start) -> None:
    running = start_engine()
    running.run("a", 0, A[:5])
    running.fork("nobody", "fork", 3)
    running.fork("a", "too long", 6)
    for session, length in (("fork", 3), ("too long", 6)):
        assert failed(running.run(session, length, [1])) == ("CACHE_LOST", 0)
    assert running.run("a", 5, [1]).length == 6


def test_a_copy_that_fails_fails_its_step_alone(
    start_engine: Start, tiny_oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.LARGE_COPY", 0)
    running = start_engine()
    running.run("a", 0, A)
    running.run("b", 0, B)
    running.fork("a", "fork", 30)

    def fail(*_: object) -> None:
        raise RuntimeError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(MlxOperations, "enlarge", fail)
        running.occupy()
        bad, good = running.submit("fork", 30, [1, 2]), running.submit("b", 60, [7, 8])
        running.within.open()
        assert failed(bad.result(PATIENCE)) == ("ENGINE_FAILED", 30)
        assert_equal_logits(logits_of(good.result(PATIENCE)), tiny_oracle.logits([*B, 7, 8])[-2:])
    assert_goes_on(running, tiny_oracle, "fork", A[:30])
    assert_goes_on(running, tiny_oracle, "a", A)


# -- dead ----------------------------------------------------------------------------------


def test_an_engine_that_dies_says_so_once_in_its_log(
    start_engine: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare: list[object] = []
    monkeypatch.setattr(threading, "excepthook", bare.append)
    running = start_engine()

    def die(_: object) -> None:
        raise SystemExit("injected")

    running.strike = die
    step = running.submit("a", 0, A)
    running.engine._thread.join(PATIENCE)
    assert not running.engine.alive
    assert not step.done()  # whoever watches the engine tells its clients
    records = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert bare == []
