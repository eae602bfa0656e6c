"""Findings are compared with the key that the bundles were made with."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.audit_tables.modes import MODES, Mode, make_subject
from stip_keys.audit.evidence.subject import Subject
from stip_keys.audit.evidence.truth import true_key
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.masks.errors import KeyFileError
from stip_keys.masks.keys import MasterKey
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import BASE_SEED

MODEL = RandomCheckpoint(num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, seed=5)
MASTER = MasterKey.from_base_seed(BASE_SEED)
LAYER = "model.layers.1."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(MODEL.write(tmp_path_factory.mktemp("truth") / "checkpoint"))


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: mode.name)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture(scope="module")
def subject(
    checkpoint: Checkpoint, mode: Mode, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    return make_subject(tmp_path_factory.mktemp("bundles"), mode, checkpoint)


def test_a_checkpoint_matches_its_bundles_in_every_mode(subject: Subject) -> None:
    subject.check_weights(np.arange(0, 150, 7))


def test_the_labels_are_those_of_the_mode(subject: Subject, mode: Mode) -> None:
    client = set(true_key(subject, None))
    expected = {
        "none": set(),
        "permutation": {"residual/0"} | ({"residual/2"} if mode.head == "client" else set()),
        "rotation": {"rotation"},
    }[mode.scheme]
    expected |= {"vocabulary"} if mode.head == "sealed" else set()
    assert client == expected
    if mode.scheme == "none":
        return
    orders = {f"layer/{i}/{name}" for i in (0, 1) for name in ("heads", "mlp")}
    orders |= {f"layer/{i}/group/{g}" for i in (0, 1) for g in range(3)}
    if mode.scheme == "permutation":
        orders |= {f"residual/{i}" for i in range(3)}
        orders |= {f"layer/{i}/value/{g}" for i in (0, 1) for g in range(3)}
        orders |= {f"layer/{i}/turns/{g}" for i in (0, 1) for g in range(3)}
    assert set(true_key(subject, MASTER)) == client | orders


def test_they_are_what_the_bundle_was_made_with(subject: Subject, mode: Mode) -> None:
    plain, bundle = subject.public.tensors, subject.bundle
    if mode.scheme == "none":
        return
    key = true_key(subject, MASTER)
    tokens = np.arange(151)
    (sent,) = subject.masked_rows([tokens])
    gates = f"{LAYER}mlp.gate_proj.weight"
    if mode.scheme == "permutation":
        np.testing.assert_array_equal(sent, subject.public.embedding[:, key["residual/0"]])
        inner, between = key["layer/1/mlp"], key["residual/2"]
        np.testing.assert_array_equal(bundle[gates], plain[gates][inner][:, between])
        values = f"{LAYER}self_attn.v_proj.bias"
        order, head_dim = key["layer/1/heads"], 10
        expected = [
            plain[values].reshape(-1, head_dim)[head][key[f"layer/1/value/{head}"]]
            for head in order
        ]
        np.testing.assert_array_equal(bundle[values], np.concatenate(expected))
    else:
        rotation = key["rotation"]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(60), atol=1e-5)
        rows = subject.public.embedding.astype(np.float32) @ rotation
        np.testing.assert_allclose(sent, rows, rtol=1e-3, atol=1e-3)
        norms = plain[f"{LAYER}post_attention_layernorm.weight"]
        expected = (plain[gates] * norms)[key["layer/1/mlp"]] @ rotation
        np.testing.assert_allclose(bundle[gates], expected, rtol=1e-4, atol=1e-5)
    if mode.head == "sealed":
        head = plain["model.embed_tokens.weight"][key["vocabulary"]]
        if mode.scheme == "permutation":
            np.testing.assert_array_equal(bundle["lm_head.weight"], head[:, key["residual/2"]])
        else:
            rotated = (head * plain["model.norm.weight"]) @ key["rotation"]
            np.testing.assert_allclose(bundle["lm_head.weight"], rotated, rtol=1e-3, atol=1e-4)


def test_another_master_key_is_refused(subject: Subject, mode: Mode) -> None:
    wrong = "have no key" if mode.scheme == "none" else "is not the one"
    with pytest.raises(KeyFileError, match=wrong):
        true_key(subject, MasterKey.from_base_seed(BASE_SEED + 1))
