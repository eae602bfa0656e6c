"""Attacks on rows sent: sorted values, inner products, known plaintext.

Each succeeds where it is known to, and fails where it says it does, over three seeds: other
prompts, other keys. A wrong model is another checkpoint of the same shape: with it, an attack is
right about as often as chance is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import UNKNOWN, Attacker
from stip_keys.audit.attacks import (
    known_plaintext,
    known_plaintext_and_model,
    row_norms_and_inner_products,
    sorted_values,
)
from tests.support.attack.demo_scenes import CHANCE, masked_demo, mistaken, seen_of_the_demo
from tests.support.attack.scenes import (
    NONE,
    PERMUTATION,
    ROTATION,
    SEEDS,
    SERVER,
    Model,
    known_to,
    mask_model,
    prompts_found,
    random_prompts,
    rows_found,
    say,
    template,
    view,
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION])
def test_sorted_values_name_every_token(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = sorted_values.ATTACK
    assert not attack.fails(scheme, SERVER)
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed)
    found = attack.run(seen)
    assert rows_found(found, said) == 1
    p_0 = masked_demo(folder, scheme, SERVER, seed).key["residual/0"]
    assert found.key["residual/0"].tolist() == p_0.tolist()
    wrong = attack.run(mistaken(seen))
    assert rows_found(wrong, said) < CHANCE
    assert not wrong.key


def test_sorted_values_name_every_token_of_a_random_model(folder: Path, random: Model) -> None:
    for seed in SEEDS:
        said = say(random, random_prompts(random.config, seed))
        masked = mask_model(random, folder / "sorted", seed=seed)
        seen = view(masked, random, said)
        assert rows_found(sorted_values.ATTACK.run(seen), said) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_sorted_values_say_nothing_of_a_rotation(folder: Path, seed: int) -> None:
    attack = sorted_values.ATTACK
    assert "mixes" in attack.fails(ROTATION, SERVER)
    seen, said = seen_of_the_demo(attack, folder, ROTATION, SERVER, seed)
    assert prompts_found(attack.run(seen), said) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_inner_products_name_every_token(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = row_norms_and_inner_products.ATTACK
    assert not attack.fails(scheme, SERVER)
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed)
    assert rows_found(attack.run(seen), said) > 0.95
    found = attack.run(mistaken(seen))
    assert rows_found(found, said) < CHANCE
    assert "no choice" in found.reason


def test_as_many_rows_as_it_has_columns_determine_a_rotation(folder: Path, random: Model) -> None:
    for seed in SEEDS:
        masked = mask_model(random, folder, ROTATION, seed=seed)
        for count, is_enough in ((3, False), (12, True)):
            said = say(random, random_prompts(random.config, seed, count))
            found = row_norms_and_inner_products.ATTACK.run(
                known_to(Attacker.WIRE, view(masked, random, said))
            )
            assert rows_found(found, said) > 0.95
            assert ("rotation" in found.key) == is_enough
        np.testing.assert_allclose(found.key["rotation"], masked.key["rotation"], atol=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_the_template_is_known_wherever_it_occurs(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = known_plaintext.ATTACK
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed, template=template())
    found = attack.run(seen)
    known = set(np.concatenate(template()).tolist())
    for candidates, each in zip(found.tokens, said, strict=True):
        expected = [token if token in known else UNKNOWN for token in each.rows]
        assert candidates[:, 0].tolist() == expected
    assert "no template" in attack.run(replace(seen, template=None)).reason


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_the_template_and_the_model_name_every_token(
    folder: Path, scheme: Scheme, seed: int
) -> None:
    attack = known_plaintext_and_model.ATTACK
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed, template=template())
    found = attack.run(seen)
    assert rows_found(found, said) == 1
    if scheme == PERMUTATION:
        p_0 = masked_demo(folder, scheme, SERVER, seed).key["residual/0"]
        assert found.key["residual/0"].tolist() == p_0.tolist()
    wrong = attack.run(mistaken(seen))
    assert not wrong.key
    without = known_plaintext.ATTACK.run(seen)
    assert rows_found(wrong, said) <= rows_found(without, said) + CHANCE
