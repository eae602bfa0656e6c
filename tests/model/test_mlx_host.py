"""Operations that NumPy computes on a CPU, compared with the same on MLX, which a GPU runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from stip_model.bundle.manifest import ServerBundle
from stip_model.loading import load_model
from stip_model.operations import mlx_host
from stip_model.operations.device import open_operations
from stip_model.operations.mlx import MlxOperations
from stip_model.operations.mlx_host import MlxHostOperations
from stip_model.operations.operations import Span
from stip_server.engine.iteration import forward
from stip_server.engine.step import Chunk, LogitsForm, Step, WantedRows

PLAIN, ON_HOST = (each("cpu", mx.float32) for each in (MlxOperations, MlxHostOperations))
BLOCK = mlx_host.BLOCK_ROWS
# (rows, tokens that precede them) of the sessions of a batch
BATCHES = (
    [(1, 0)],
    [(1, 300), (1, 0), (1, 17)],
    [(BLOCK, 0)],
    [(BLOCK + 1, 0)],
    [(3 * BLOCK + 5, 2)],
    [(BLOCK - 1, 3 * BLOCK), (1, 7), (2, 0), (2 * BLOCK, 1)],
)


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, and on the host however little there is to do."""
    mx.set_default_device(mx.cpu)
    monkeypatch.setattr(mlx_host, "FEW_SPANS", 0)
    monkeypatch.setattr(mlx_host, "FEW_VALUES", 0)


def assert_close(found: mx.array, expected: mx.array) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.isfinite(np.asarray(found)).all()
    scale = float(mx.abs(expected).max())
    assert float(mx.abs(found - expected).max()) < 1e-5 * scale


@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (7, 7), (14, 2)], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_attention(batch: list[tuple[int, int]], heads: tuple[int, int]) -> None:
    num_heads, num_kv_heads = heads
    head_dim = 10
    mx.random.seed(0)
    # rows that no span covers are not attended for
    queries = 9 * mx.random.normal((2 + sum(rows for rows, _ in batch), num_heads, head_dim))
    spans, start = [], 2
    for rows, preceding in batch:
        # a cache holds more than is in use
        cache = 5 * mx.random.normal((2, num_kv_heads, preceding + rows + 9, head_dim))
        spans.append(Span(start, start + rows, cache, preceding + rows))
        start += rows
    expected = PLAIN.attention(queries, spans, 0.3)
    assert_close(ON_HOST.attention(queries, spans, 0.3), expected)


def test_activation_at_any_size_of_the_gate() -> None:
    gate = mx.array([[-1e30, -200.0, -88.0, -1.0, -0.0, 0.0, 1e-6, 3.0, 90.0, 1e30]])
    gate_up = mx.concatenate([gate, mx.full(gate.shape, 2.5)], axis=-1)
    found, expected = (np.asarray(each.swiglu(gate_up)) for each in (ON_HOST, PLAIN))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("k", [1, 2, 20, 999, 1000])
def test_the_largest_logits_and_their_sum(k: int) -> None:
    mx.random.seed(0)
    logits = mx.random.normal((5, 1000)) * mx.array([[0.01], [1.0], [30.0], [3.0], [300.0]]) + 7
    found, expected = (each.top_k(logits, k) for each in (ON_HOST, PLAIN))
    assert [array.dtype for array in found] == [np.float32, np.int32, np.float32]
    assert [array.shape for array in found] == [(5, k), (5, k), (5,)]
    np.testing.assert_array_equal(found[0], expected[0])
    for values, indices, _ in (found, expected):  # equal logits come in any order
        np.testing.assert_array_equal(np.take_along_axis(np.asarray(logits), indices, -1), values)
        assert all(len(set(row)) == k for row in indices.tolist())
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-6)
    # and as anyone would compute it
    exact = np.asarray(logits, np.float64)
    np.testing.assert_array_equal(found[0], -np.sort(-np.asarray(logits), axis=-1)[:, :k])
    np.testing.assert_allclose(found[2], np.logaddexp.reduce(exact, axis=-1), rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_logits_that_are_not_finite_do_no_harm(odd: float) -> None:
    logits = mx.array(np.array([[1.0, odd, 2.0, 0.5], [4.0, 3.0, 2.0, 1.0]], np.float32))
    for k in (1, 2, 4):
        values, indices, _ = ON_HOST.top_k(logits, k)
        assert values.shape == indices.shape == (2, k)
        np.testing.assert_array_equal(indices[1], np.arange(k))


def test_a_whole_model_gives_the_same_answers(tiny_bundles: Path) -> None:
    bundle = ServerBundle(tiny_bundles / "server")
    plain, on_host = (load_model(bundle, each) for each in (PLAIN, ON_HOST))
    rng = np.random.default_rng(0)
    caches = [(plain.new_cache(), on_host.new_cache()) for _ in range(4)]
    for _ in range(6):
        chunks = []
        for index, (cache, _) in enumerate(caches):
            rows = int(rng.choice([1, 2, 70]))
            hidden_states = rng.standard_normal((rows, plain.config.hidden_size))
            position = int(rng.integers(0, cache.length + 1))
            form = LogitsForm(WantedRows.ALL, top_k=0, half_precision=False)
            step = Step(bytes([index]), position, hidden_states, form, lambda _: None)
            chunks.append(Chunk(step, 0, rows))
        ours = forward(on_host, [(c, pair[1]) for c, pair in zip(chunks, caches, strict=True)])
        theirs = forward(plain, [(c, pair[0]) for c, pair in zip(chunks, caches, strict=True)])
        for found, expected in zip(ours, theirs, strict=True):
            values = (b"".join(part.values for part in each) for each in (found, expected))
            assert_close(*(mx.array(np.frombuffer(each, np.float32)) for each in values))


def test_numpy_computes_float32_on_a_cpu_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for gpu in (False, True):
        monkeypatch.setattr(mx.metal, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr(mx, "set_default_device", lambda _: None)
        for cpu, dtype, fused in product((False, True), ("float32", "bfloat16"), (False, True)):
            found = open_operations(cpu=cpu, dtype=dtype, bundle_dtype="float16", fused=fused)
            by_numpy = (cpu or not gpu) and dtype == "float32"
            assert type(found) is (MlxHostOperations if by_numpy else MlxOperations)
            assert found.device == ("metal" if gpu and not cpu else "cpu")
            assert found.dtype == dtype
        found = open_operations(cpu=False, dtype="auto", bundle_dtype="float16", fused=False)
        assert found.dtype == ("float16" if gpu else "float32")
