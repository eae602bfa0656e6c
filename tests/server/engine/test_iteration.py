"""One iteration: whatever forms of answer meet in it, each step gets its own."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Model
from stip_model.loading import load_model
from stip_model.operations.mlx import Linear, MlxOperations
from stip_server.engine.iteration import forward
from stip_server.engine.step import Chunk, LogitsForm, Step, StepLogits, WantedRows, join_logits

# rows of the step, rows asked for, top_k, float16; neighbours of one form and of different ones
ASKED = (
    (2, WantedRows.ALL, 0, False),
    (1, WantedRows.LAST, 0, False),
    (3, WantedRows.LAST, 4, True),
    (1, WantedRows.NONE, 4, True),
    (2, WantedRows.ALL, 4, True),
    (1, WantedRows.LAST, 4, False),
    (4, WantedRows.LAST, 1, False),
    (2, WantedRows.ALL, 1, False),
    (3, WantedRows.ALL, 0, True),
    (2, WantedRows.LAST, 0, False),
)


@pytest.fixture(scope="module")
def model(tiny_bundles: Path) -> Model:
    mx.set_default_device(mx.cpu)
    return load_model(ServerBundle(tiny_bundles / "server"), MlxOperations("cpu", mx.float32))


def hidden_states_of(model: Model, rows: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, model.config.hidden_size)).astype(np.float32)


def chunk(model: Model, index: int) -> Chunk:
    num_rows, rows, top_k, half_precision = ASKED[index]
    hidden_states = hidden_states_of(model, num_rows, seed=index)
    step = Step(
        bytes([index]),
        0,
        hidden_states,
        LogitsForm(rows, top_k, half_precision),
        lambda _: None,
    )
    return Chunk(step, 0, num_rows)


def wanted_rows(index: int) -> int:
    num_rows, rows, _, _ = ASKED[index]
    return {WantedRows.ALL: num_rows, WantedRows.LAST: 1, WantedRows.NONE: 0}[rows]


def assert_same(parts: list[StepLogits], others: list[StepLogits], half: bool) -> None:
    found, expected = join_logits(parts), join_logits(others)
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.rows, found.width) == (expected.rows, expected.width)
    values, same = (
        np.frombuffer(each.values, np.float16 if half else np.float32) for each in (found, expected)
    )
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, same, rtol=1e-2 if half else 1e-4, atol=1e-3)
    assert found.indices == expected.indices
    sums, other_sums = (np.frombuffer(each.log_sum_exp, np.float32) for each in (found, expected))
    np.testing.assert_allclose(sums, other_sums, rtol=1e-5)


def test_forms_that_meet_are_answered_as_each_is_alone(model: Model) -> None:
    indices = range(len(ASKED))
    together = forward(model, [(chunk(model, each), model.new_cache()) for each in indices])
    for index, found in enumerate(together):
        (alone,) = forward(model, [(chunk(model, index), model.new_cache())])
        assert_same(found, alone, ASKED[index][3])
        assert sum(part.rows for part in found) == wanted_rows(index)


def test_the_weights_are_read_once_for_the_rows_of_all_sessions(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, rows = MlxOperations.linear, []

    def counted(self: MlxOperations, x: mx.array, weights: Linear) -> mx.array:
        rows.append(x.shape[0])
        return linear(self, x, weights)

    monkeypatch.setattr(MlxOperations, "linear", counted)
    batch = [(chunk(model, index), model.new_cache()) for index in range(len(ASKED))]
    forward(model, batch)
    of_all = sum(num_rows for num_rows, *_ in ASKED)
    kept = sum(wanted_rows(index) for index in range(len(ASKED)))
    # only the last layer's first projection takes rows that nobody asks for; the head comes last
    assert rows == [of_all] * (4 * len(model.layers) - 3) + [kept] * 4


def test_what_is_copied_shows_that_the_engine_lives(model: Model) -> None:
    cache, beats = model.new_cache(), 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    assert list(cache.ensure_capacity(0, 1)) == []
    cache.length = cache._capacity  # the next row needs a larger storage
    form = LogitsForm(WantedRows.NONE, top_k=0, half_precision=False)
    step = Step(b"1", cache.length, hidden_states_of(model, 1), form, lambda _: None)
    forward(model, [(Chunk(step, 0, 1), cache)], beat)
    assert beats == len(model.layers)


@pytest.mark.parametrize("head_rows", [1, 2, 3])
def test_wide_logits_are_computed_a_few_rows_at_a_time_and_show_it(
    model: Model, head_rows: int
) -> None:
    indices = range(len(ASKED))

    def logits(**options: int) -> tuple[list[list[StepLogits]], list[int]]:
        shown: list[int] = []
        batch = [(chunk(model, each), model.new_cache()) for each in indices]
        found = forward(
            model, batch, after_layer=lambda computed: shown.append(computed.shape[0]), **options
        )
        return found, shown[len(model.layers) :]

    expected, shown = logits()
    # the head once, whatever forms are asked for in whatever order
    assert shown == [sum(part.rows for parts in expected for part in parts)]
    found, shown = logits(head_rows=head_rows)
    for index in indices:
        assert_same(found[index], expected[index], ASKED[index][3])
    assert max(shown) == head_rows and sum(shown) == sum(
        part.rows for parts in found for part in parts
    )
