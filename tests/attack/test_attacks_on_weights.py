"""The attack on weights.

Each succeeds where it is known to, and fails where it says it does, over three seeds: other
prompts, other keys. A wrong model is another checkpoint of the same shape: with it, an attack is
right about as often as chance is.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import View
from stip_keys.audit.attacks import weight_signatures
from stip_keys.audit.solvers.permuted_weights import recover_permutations
from stip_keys.convert.checkpoint import StoredTensors
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.manifest import read_manifest
from tests.support.attack.demo_scenes import masked_demo, mistaken, seen_of_the_demo
from tests.support.attack.scenes import (
    CLIENT,
    NONE,
    PERMUTATION,
    ROTATION,
    SEALED,
    SEEDS,
    SERVER,
    read_model,
    replies_found,
    rows_found,
)
from tests.support.models.random_models import MODELS
from tests.support.parties import BASE_SEED, convert

HEADS = (SERVER, CLIENT, SEALED)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("scheme", "head"), [(NONE, SERVER), *product((PERMUTATION, ROTATION), HEADS)]
)
def test_weights_give_the_key_and_all_that_is_said(
    folder: Path, scheme: Scheme, head: Head, seed: int
) -> None:
    attack = weight_signatures.ATTACK
    assert not attack.fails(scheme, head)
    seen, said = seen_of_the_demo(attack, folder, scheme, head, seed)
    found = attack.run(seen)
    assert rows_found(found, said) == 1
    assert replies_found(found, said) > 0.95
    for label, true in masked_demo(folder, scheme, head, seed).key.items():
        if label == "rotation":
            np.testing.assert_allclose(found.key[label], true, atol=2e-3)
        else:
            assert (found.key[label] == true).mean() > 0.999, label
    wrong = attack.run(mistaken(seen))
    assert not wrong.tokens and not wrong.key and wrong.reason


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_weights_give_every_permutation_exactly(tmp_path: Path, name: str, dtype: str) -> None:
    """Also of a bundle whose numbers were rounded: the attacker rounds the model's likewise."""
    model = read_model(MODELS[name].write(tmp_path / "checkpoint"))
    bundles = convert(model.folder, tmp_path / "bundles", "--dtype", dtype)
    tensors = StoredTensors.of_folder(bundles / "server")
    key, config = MasterKey.from_base_seed(BASE_SEED), model.config
    seen = View(PERMUTATION, SERVER, (), model.public, tensors, config)
    recovered = recover_permutations(seen)
    assert recovered is not None
    found = dict(recovered.key)
    group = config.num_attention_heads // config.num_key_value_heads
    blocks = read_manifest(bundles / "server").residual_blocks
    for layer in range(config.num_hidden_layers + 1):
        expected = key.residual_permutation(layer, config.hidden_size, blocks)
        assert found.pop(f"residual/{layer}").tolist() == expected.tolist()
    for label, indices in found.items():
        kind = label.split("/")[2]
        if kind == "turns":
            expected = key.quarter_turns(label, config.head_dim // 2)
        else:
            size = {
                "heads": config.num_key_value_heads,
                "group": group,
                "value": config.head_dim,
                "mlp": config.intermediate_size,
            }[kind]
            expected = key.permutation(label, size)
        assert indices.tolist() == expected.tolist(), label
    assert len(found) == config.num_hidden_layers * (2 + 3 * config.num_key_value_heads)


def test_a_rotation_of_other_weights_is_not_believed(folder: Path) -> None:
    """Of a model that has three in ten rows of gate from another: it is not this one."""
    seen, _ = seen_of_the_demo(weight_signatures.ATTACK, folder, ROTATION, SERVER, 0)
    assert seen.public is not None
    name = "model.layers.0.mlp.gate_proj.weight"
    changed = dict(seen.public.tensors)
    changed[name] = changed[name].copy()
    changed[name][::10] = changed[name][1::10][: len(changed[name][::10])]
    changed[name][3::5] = changed[name][4::5][: len(changed[name][3::5])]
    found = weight_signatures.run(replace(seen, public=replace(seen.public, tensors=changed)))
    assert "no rotation" in found.reason
