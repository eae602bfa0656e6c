"""The engine: chunks, batches, rollbacks and forks, compared with mlx-lm."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from stip_model.bundle.manifest import ServerBundle
from stip_model.errors import BundleError
from stip_model.operations.mlx import MlxOperations
from stip_server.engine.engine import Engine
from stip_server.engine.step import WantedRows
from stip_server.observe.metrics import Metrics
from stip_server.settings import EngineSettings
from tests.support.models.damage import flip_bit
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.servers.running_engine import Gate, RunningEngine, logits_of
from tests.support.waiting import LONG_PATIENCE, PATIENCE, eventually

Start = Callable[..., RunningEngine]
CHUNK = 20


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 151, count)]


A, B, C = tokens(50, 1), tokens(60, 2), tokens(70, 3)


def gate_of_copies(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate before a layer of keys and values is copied."""
    gate, enlarge = Gate(), MlxOperations.enlarge

    def gated(*arguments: Any) -> mx.array:
        gate.pass_through()
        return enlarge(*arguments)

    monkeypatch.setattr(MlxOperations, "enlarge", gated)
    return gate


def test_a_step_is_answered_whole_however_it_is_chunked(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    outcome = running.run("a", 0, A)
    assert_equal_logits(logits_of(outcome), tiny_oracle.logits(A))
    assert outcome.length == len(A)
    assert running.iterations == [[("a", 0, 17)], [("a", 17, 17)], [("a", 34, 16)]]


def test_only_the_wanted_rows_are_answered(start_engine: Start, tiny_oracle: Oracle) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    assert running.run("a", 0, A, WantedRows.NONE).logits is None
    last = logits_of(running.run("b", 0, B, WantedRows.LAST))
    assert_equal_logits(last, tiny_oracle.logits(B)[-1:])


def test_sessions_of_any_length_share_iterations(start_engine: Start, tiny_oracle: Oracle) -> None:
    running = start_engine(max_batch_rows=64)
    running.run("a", 0, A)
    running.run("b", 0, B[:5])
    running.occupy()
    outcomes = [
        running.submit("a", len(A), [7]),
        running.submit("b", 5, B[5:9]),
        running.submit("c", 0, C),
    ]
    running.within.open()
    found = [logits_of(outcome.result(PATIENCE)) for outcome in outcomes]
    assert running.iterations[-2] == [("a", 50, 1), ("b", 5, 4), ("c", 0, 35)]
    assert running.iterations[-1] == [("c", 35, 35)]
    expected = [tiny_oracle.logits(all_of_it) for all_of_it in ([*A, 7], B[:9], C)]
    for rows, alone in zip(found, expected, strict=True):
        assert_equal_logits(rows, alone[-len(rows) :])


def test_sessions_that_send_different_types_share_an_iteration(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.occupy()
    outcomes = [running.submit(str(dtype), 0, A, dtype=dtype) for dtype in (np.float16, np.float32)]
    running.within.open()
    for outcome in outcomes:
        rows = logits_of(outcome.result(PATIENCE))
        assert_equal_logits(rows, tiny_oracle.logits(A))
    assert len(running.iterations[-1]) == 2


def test_each_row_of_a_batch_has_its_own_rollback(start_engine: Start, tiny_oracle: Oracle) -> None:
    running = start_engine()
    for session, prompt in (("a", A), ("b", B), ("c", C)):
        running.run(session, 0, prompt)
    running.occupy()
    outcomes = [
        running.submit("a", 10, [4, 5]),
        running.submit("b", 60, [4, 5]),
        running.submit("c", 0, [4, 5]),
    ]
    running.within.open()
    results = [outcome.result(PATIENCE) for outcome in outcomes]
    assert len(running.iterations[-1]) == 3
    assert [result.length for result in results] == [12, 62, 2]
    for result, prefix in zip(results, (A[:10], B, []), strict=True):
        assert_equal_logits(logits_of(result), tiny_oracle.logits([*prefix, 4, 5])[-2:])


def test_steps_of_a_session_run_in_their_order(start_engine: Start, tiny_oracle: Oracle) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    cuts = [(0, 30), (30, 31), (20, 50)]
    outcomes = [running.submit("a", begin, A[begin:end]) for begin, end in cuts]
    for (begin, end), outcome in zip(cuts, outcomes, strict=True):
        rows = logits_of(outcome.result(PATIENCE))
        assert_equal_logits(rows, tiny_oracle.logits(A[:end])[begin:])


def test_a_fork_sees_what_was_computed_before_and_nothing_after(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.run("a", 0, A)
    running.fork("a", "fork", 30)
    running.run("a", 10, B)
    running.fork("fork", "fork of fork", 20)
    running.release("a")
    for session, prefix in (("fork of fork", A[:20]), ("fork", A[:30])):
        rows = logits_of(running.run(session, len(prefix), [7, 8]))
        assert_equal_logits(rows, tiny_oracle.logits([*prefix, 7, 8])[-2:])


def test_a_released_session_frees_its_bytes_and_leaves_nothing(
    start_engine: Start, tiny_oracle: Oracle
) -> None:
    running = start_engine()
    running.run("a", 0, A)
    running.run("b", 0, B)
    running.release("a")
    rows = logits_of(running.run("a", 0, C[:3]))  # an id that comes again is a new session
    assert_equal_logits(rows, tiny_oracle.logits(C[:3]))
    for session in ("a", "b"):
        running.release(session)
    running.settle()
    assert running.engine.kv_bytes_used == 0
    assert running.engine.waiting_steps == 0


def test_sessions_that_need_long_copies_come_one_an_iteration_and_others_in_each(
    start_engine: Start, tiny_oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.LARGE_COPY", 0)
    running = start_engine()
    running.run("a", 0, A)
    running.run("b", 0, B)
    forks = ["fork 1", "fork 2", "fork 3"]
    for fork in forks:
        running.fork("a", fork, len(A))
    running.occupy()
    outcomes = [running.submit(fork, len(A), [7]) for fork in forks]
    decoded = [running.submit("b", len(B) + each, [8]) for each in range(3)]
    before = len(running.iterations)
    running.within.open()
    for outcome in outcomes:
        rows = logits_of(outcome.result(PATIENCE))
        assert_equal_logits(rows, tiny_oracle.logits([*A, 7])[-1:])
    for each in decoded:
        logits_of(each.result(PATIENCE))
    took_part = [[session for session, _, _ in each] for each in running.iterations[before:]]
    assert [sorted(each) for each in took_part] == [["b", fork] for fork in forks]


def test_what_is_asked_during_a_long_copy_is_done_before_the_next_iteration(
    start_engine: Start, tiny_oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.LARGE_COPY", 0)
    running = start_engine()
    for session, prompt in (("a", A), ("b", B), ("c", C)):
        running.run(session, 0, prompt)
    running.fork("a", "fork", 30)
    copying = gate_of_copies(monkeypatch)
    copying.close()
    steps = [(A[:30], running.submit("fork", 30, [7, 8]))]
    copying.await_arrival()
    # a fork's first steps, and a step that overwrites what another fork has just begun with
    for length in (20, 40):
        running.fork("b", f"fork of {length}", length)
    steps.append((B[:20], running.submit("fork of 20", 20, [7, 8])))
    steps.append(([], running.submit("fork of 40", 0, [7, 8])))
    running.fork("c", "fork of c", 50)
    steps.append((C[:10], running.submit("c", 10, [7, 8])))
    steps.append((C[:50], running.submit("fork of c", 50, [7, 8])))
    running.release("b")
    copying.open()
    for prefix, step in steps:
        rows = logits_of(step.result(PATIENCE))
        assert_equal_logits(rows, tiny_oracle.logits([*prefix, 7, 8])[-2:])


def test_who_comes_during_a_long_copy_and_needs_one_waits_for_its_own_turn(
    start_engine: Start, tiny_oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.LARGE_COPY", 0)
    running = start_engine()
    running.run("a", 0, A)
    forks = ["fork 1", "fork 2", "fork 3"]
    for fork in forks:
        running.fork("a", fork, len(A))
    copying = gate_of_copies(monkeypatch)
    copying.close()
    before = len(running.iterations)
    outcomes = [running.submit("fork 1", len(A), [7])]
    copying.await_arrival()
    outcomes += [running.submit(fork, len(A), [7]) for fork in forks[1:]]
    copying.open()
    for outcome in outcomes:
        rows = logits_of(outcome.result(PATIENCE))
        assert_equal_logits(rows, tiny_oracle.logits([*A, 7])[-1:])
    assert running.iterations[before:] == [[(fork, len(A), 1)] for fork in forks]


def test_a_long_copy_shows_that_the_engine_lives_after_each_layer(
    start_engine: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.LARGE_COPY", 0)
    monkeypatch.setattr("stip_server.engine.engine.HEARTBEAT", LONG_PATIENCE)  # no beat for idling
    running = start_engine()
    layers = running.engine.manifest.model.num_hidden_layers
    running.run("a", 0, tokens(250))
    running.settle()
    running.between.close()
    for copies, act in (
        (layers, lambda: running.submit("a", 250, [1] * 7)),  # it grows
        (0, lambda: running.submit("a", 257, [1])),
    ):
        before = running.engine.beats
        act()
        running.between.await_arrival()
        # one when it looks for work, at most one more where it was woken before
        assert copies + 1 <= running.engine.beats - before <= copies + 3
        running.between.open()
        running.between.close()


def test_an_idle_engine_holds_no_answer(start_engine: Start) -> None:
    running = start_engine()
    outcome = weakref.ref(running.run("a", 0, A))
    eventually(lambda: outcome() is None)


def test_bytes_in_use_are_those_of_the_caches(start_engine: Start) -> None:
    running = start_engine()
    of_one = running.engine.kv_bytes(1)
    for session, length in (("a", 1), ("b", 256), ("c", 257)):
        running.run(session, 0, tokens(length))
    running.settle()
    assert running.engine.kv_bytes_used == (1 + 1 + 2) * of_one


def test_iterations_are_counted_with_their_rows_and_sessions(start_engine: Start) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.run("a", 0, A)
    running.occupy()
    outcomes = [running.submit(session, 0, [7]) for session in "abc"]
    running.within.open()
    for outcome in outcomes:
        outcome.result(PATIENCE)
    running.settle()
    value = running.metrics.registry.get_sample_value
    assert len(running.iterations) == 3 + 1 + 1
    assert value("stip_iteration_seconds_count") == len(running.iterations)
    assert value("stip_iteration_rows_sum") == 50 + 1 + 3
    assert value("stip_iteration_sessions_sum") == 3 + 1 + 3


def test_seconds_are_those_of_the_steps_own_iterations(start_engine: Start) -> None:
    jumped = 0.0
    running = start_engine(max_batch_rows=CHUNK, clock=lambda: monotonic() + jumped)

    def take_long(_: object) -> None:
        nonlocal jumped
        jumped += 1000.0

    running.strike = take_long
    running.occupy()
    waiting = running.submit("a", 0, A)
    running.within.open()
    outcome = waiting.result(PATIENCE)
    assert outcome.queued == pytest.approx(1000.0, abs=400.0)
    assert outcome.computed == pytest.approx(3 * 1000.0, abs=400.0)


def test_an_idle_engine_shows_that_it_lives_and_a_long_iteration_after_each_layer(
    start_engine: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_server.engine.engine.HEARTBEAT", 0.001)
    monkeypatch.setattr("stip_server.engine.iteration_pace.LONG_ROWS", 1)
    running = start_engine()
    seen = running.engine.beats
    eventually(lambda: running.engine.beats >= seen + 3)
    running.occupy()
    before = running.engine.beats
    running.between.close()
    running.within.open()
    running.between.await_arrival()
    assert running.engine.beats == before + 4  # three layers and the head


@pytest.mark.parametrize("limit", [None, 2**30])
def test_memory_is_wired_where_it_is_asked_for_alone(
    limit: int | None, tiny_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    settings = EngineSettings(cpu=True, wired_limit=limit)
    engine = Engine(ServerBundle(tiny_bundles / "server"), settings, Metrics())
    engine.start()
    eventually(engine.loaded)
    engine.stop(PATIENCE)
    assert wired == [each for each in [limit] if each is not None]


def test_a_stopped_engine_first_finishes_what_waits(start_engine: Start) -> None:
    running = start_engine(max_batch_rows=CHUNK)
    running.occupy()
    waiting = [running.submit("a", 0, A), running.submit("b", 0, B)]
    running.stop()
    assert not running.engine.alive
    assert [outcome.result(0).length for outcome in waiting] == [50, 60]


def test_a_bundle_that_cannot_be_loaded_is_raised_to_whoever_asks(
    tmp_path: Path, tiny_bundles: Path
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    for file in (tiny_bundles / "server").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    flip_bit(folder / "layer_01.safetensors")
    engine = Engine(ServerBundle(folder), EngineSettings(cpu=True), Metrics())
    engine.start()
    engine._thread.join(PATIENCE)
    with pytest.raises(BundleError, match="layer_01"):
        engine.loaded()
