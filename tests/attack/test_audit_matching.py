"""The parts that attacks match with: nearest rows, signatures of weights, and masks."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import View
from stip_keys.audit.solvers import nearest as nearest_module
from stip_keys.audit.solvers.inner_products import (
    Products,
    consistent_anchors,
    decode,
    squared_norms,
)
from stip_keys.audit.solvers.mask_from_rows import permutation_between, rotation_between
from stip_keys.audit.solvers.nearest import nearest
from stip_keys.audit.solvers.permuted_weights import recover_permutations
from stip_keys.audit.solvers.weight_hashes import pairing, row_signatures, stored_type
from stip_keys.convert.checkpoint import StoredTensors
from stip_keys.masks.keys import MasterKey
from tests.support.attack.scenes import read_model
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import BASE_SEED, convert

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("piece_bytes", [1, 1000, 10**6])
def test_nearest_are_those_of_all_distances(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(nearest_module, "PIECE_BYTES", piece_bytes)
    queries, table = rng.standard_normal((7, 5)), rng.standard_normal((60, 5))
    found, squares = nearest(queries.astype(np.float32), table.astype(np.float32))
    expected = ((queries[:, None] - table) ** 2).sum(axis=2)
    order = np.argsort(expected, axis=1)[:, :10]
    assert found.tolist() == order.tolist()
    np.testing.assert_allclose(squares, np.take_along_axis(expected, order, 1), rtol=1e-4)


def test_nearest_keeps_small_distances_apart_far_from_the_origin() -> None:
    """Products lose small differences: in float32, the square of a million swallows them."""
    table = np.array([[1e4, 0.0], [1e4, 0.004], [1e4, 0.001], [-1e4, 0.0]], np.float32)
    queries = np.array([[1e4, 0.0015], [1e4, 0.0041], [-1e4, 0.0]], np.float32)
    found, _ = nearest(queries, table)
    assert found[:2].tolist() == [[2, 0, 1, 3], [1, 2, 0, 3]]
    assert found[2, 0] == 3


def test_equal_rows_come_in_the_tables_order() -> None:
    table = np.ones((4, 3), np.float16)
    assert nearest(np.ones((1, 3), np.float32), table)[0].tolist() == [[0, 1, 2, 3]]


def test_rows_have_the_signatures_of_their_magnitudes_wherever_they_stand(
    rng: np.random.Generator,
) -> None:
    rows = rng.standard_normal((9, 6)).astype(np.float32)
    order, columns = rng.permutation(9), rng.permutation(6)
    moved = rows[order][:, columns] * rng.choice([-1, 1], (9, 1)).astype(np.float32)
    known = row_signatures(rows, FLOAT32, np.arange(6))
    assert pairing(row_signatures(moved, FLOAT32, columns), known).tolist() == order.tolist()
    assert pairing(row_signatures(moved, FLOAT32, np.arange(6)), known) is None
    moved[0, 0] += 1e-3
    assert pairing(row_signatures(moved, FLOAT32, columns), known) is None


def test_the_type_of_weights_is_seen_from_their_values(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1000).astype(np.float32)
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), FLOAT32):
        assert stored_type(values.astype(dtype).astype(np.float32)) == dtype


def test_a_layer_that_tells_coordinates_apart_serves_for_one_that_does_not(
    tmp_path: Path,
) -> None:
    """The second layer separates coordinates that are equal in the first."""
    folder = RandomCheckpoint().write(tmp_path / "checkpoint")
    model = read_model(folder)
    tensors = dict(model.public.tensors)
    for name, tensor in tensors.items():
        if name.endswith("input_layernorm.weight") or "q_proj.w" in name or "k_proj.w" in name:
            alike = name.startswith("model.layers.0.")
        else:
            alike = name == "model.layers.0.self_attn.v_proj.weight"
        if alike:
            tensor[..., 7:12] = tensor[..., 3:4]
    save_file(tensors, folder / "model.safetensors")
    model = read_model(folder)
    bundles = convert(folder, tmp_path / "bundles", "--blocks", 1)
    served = StoredTensors.of_folder(bundles / "server")
    seen = View(Scheme.SCHEME_PERMUTATION, Head.HEAD_SERVER, (), model.public, served, model.config)
    recovered = recover_permutations(seen)
    assert recovered is not None
    key = MasterKey.from_base_seed(BASE_SEED)
    for layer, p in enumerate(recovered.residual):
        assert p.tolist() == key.residual_permutation(layer, 60, 1).tolist()


def test_a_permutation_is_found_from_rows_and_only_where_there_is_one(
    rng: np.random.Generator,
) -> None:
    plain = rng.standard_normal((3, 40)).astype(np.float16)
    plain[0, :2] = 0.0, -0.0
    p = rng.permutation(40)
    assert permutation_between(plain, plain[:, p]).tolist() == p.tolist()
    assert permutation_between(plain, plain[:, p] + np.float16(1)) is None


def test_a_rotation_is_found_from_as_many_independent_rows(rng: np.random.Generator) -> None:
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    plain = rng.standard_normal((12, 8)).astype(np.float16)
    sent = (plain @ rotation).astype(np.float16)
    np.testing.assert_allclose(rotation_between(plain, sent), rotation, atol=2e-3)
    assert rotation_between(plain[:7], sent[:7]) is None
    repeated = np.repeat(plain[:4], 3, axis=0)
    assert rotation_between(repeated, np.repeat(sent[:4], 3, axis=0)) is None


def test_a_norm_and_a_few_products_name_rows(rng: np.random.Generator) -> None:
    embedding = (rng.standard_normal((3000, 24)) * 4).astype(np.float16)
    rotation = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    tokens = rng.choice(3000, 120, replace=False)
    products = Products((embedding[tokens] @ rotation).astype(np.float16))
    known = np.arange(3)
    assert decode(products, embedding, known, tokens[known])[:, 0].tolist() == tokens.tolist()


@pytest.mark.parametrize("rows", [5, 40])
def test_rows_of_another_table_agree_with_no_choice(rng: np.random.Generator, rows: int) -> None:
    embedding, another = (rng.standard_normal((800, 48)).astype(np.float16) for _ in range(2))
    products = Products(another[:rows])
    assert consistent_anchors(products, embedding, squared_norms(embedding)) is None
    products = Products(embedding[:rows])
    chosen, tokens = consistent_anchors(products, embedding, squared_norms(embedding))
    assert tokens.tolist() == chosen.tolist()
