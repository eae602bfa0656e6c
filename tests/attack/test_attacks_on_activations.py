"""Attacks on what the server computes: hidden states and attention scores.

Each succeeds where it is known to, and fails where it says it does, over three seeds: other
prompts, other keys. A wrong model is another checkpoint of the same shape: with it, an attack is
right about as often as chance is.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import UNKNOWN, Attack, View
from stip_keys.audit.attacks import (
    attention_scores,
    hidden_states_as_answers,
    hidden_states_first_layer,
    hidden_states_last_layer,
    hidden_states_middle_layer,
)
from stip_keys.audit.solvers.state_matching import Deadline, Expired
from stip_keys.masks.keys import MasterKey
from tests.support.attack.demo_scenes import CHANCE, masked_demo, mistaken, seen_of_the_demo
from tests.support.attack.scenes import (
    CLIENT,
    NONE,
    PERMUTATION,
    ROTATION,
    SEEDS,
    SERVER,
    Model,
    mask_model,
    random_model,
    random_prompts,
    replies_found,
    rows_found,
    say,
    view,
)

FIRST, MIDDLE = hidden_states_first_layer.ATTACK, hidden_states_middle_layer.ATTACK
LAST, ANSWERS = hidden_states_last_layer.ATTACK, hidden_states_as_answers.ATTACK


def in_bfloat16(seen: View) -> View:
    """The same, of a server that rounds its states to bfloat16."""
    assert seen.activations is not None
    rounded = [
        replace(
            each,
            hidden_states=[
                state.astype(ml_dtypes.bfloat16).astype(np.float32) for state in each.hidden_states
            ],
        )
        for each in seen.activations
    ]
    return replace(seen, activations=rounded)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("attack", "scheme"), [(FIRST, NONE), *product((FIRST, MIDDLE, LAST), (PERMUTATION, ROTATION))]
)
def test_states_after_any_layer_name_every_token(
    folder: Path, scheme: Scheme, attack: Attack, seed: int
) -> None:
    assert not attack.fails(scheme, SERVER)
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed)
    found = attack.run(in_bfloat16(seen))
    assert rows_found(found, said) > 0.95
    assert replies_found(found, said) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [PERMUTATION, ROTATION])
def test_states_are_like_no_other_models(folder: Path, scheme: Scheme, seed: int) -> None:
    seen, said = seen_of_the_demo(FIRST, folder, scheme, SERVER, seed)
    found = FIRST.run(mistaken(seen))
    assert rows_found(found, said) < CHANCE
    assert replies_found(found, said) < CHANCE
    assert "no token" in found.reason


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_final_states_as_answers_name_every_token(folder: Path, scheme: Scheme, seed: int) -> None:
    seen, said = seen_of_the_demo(ANSWERS, folder, scheme, CLIENT, seed)
    assert not ANSWERS.fails(scheme, CLIENT)
    found = ANSWERS.run(seen)
    assert rows_found(found, said) > 0.95
    assert replies_found(found, said) > 0.95
    if seed == 0 and scheme != NONE:  # it tries all of the vocabulary, which takes long
        assert rows_found(ANSWERS.run(mistaken(seen)), said) < CHANCE


@pytest.mark.parametrize("passes", [1, 12])
def test_it_stops_when_the_time_is_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """What it has found by then is right, and of the rest it says nothing."""
    seen, said = seen_of_the_demo(FIRST, folder, PERMUTATION, SERVER, 0)
    left = passes * len(seen.conversations)

    def check(_: Deadline) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Expired

    monkeypatch.setattr(Deadline, "check", check)
    found = FIRST.run(replace(seen, time_limit=7))
    assert found.stopped
    decoded = 0
    for candidates, each in zip(found.tokens, said, strict=True):
        tried = int((candidates[:, 0] != UNKNOWN).sum())
        assert candidates[:tried, 0].tolist() == each.rows[:tried]
        assert (candidates[tried:] == UNKNOWN).all()
        decoded += tried
    total = sum(len(each.sent) for each in seen.conversations)
    assert len(said) // 2 <= decoded <= passes * len(said) < total
    assert found.reason == f"stopped after 7 s, with {decoded} of {total} tokens tried"


def test_time_is_over_after_the_limit(folder: Path) -> None:
    seen, _ = seen_of_the_demo(FIRST, folder, PERMUTATION, SERVER, 0)
    found = FIRST.run(replace(seen, time_limit=0))
    assert found.stopped and (found.tokens[0] == UNKNOWN).all()
    assert not FIRST.run(seen).stopped


def test_logits_are_no_hidden_states(folder: Path) -> None:
    seen, _ = seen_of_the_demo(ANSWERS, folder, PERMUTATION, SERVER, 0)
    found = ANSWERS.run(seen)
    assert not found.tokens
    assert found.reason == ANSWERS.fails(PERMUTATION, SERVER) != ""


def test_random_models_states_name_every_token(folder: Path, random: Model) -> None:
    """Also where the model's own expectations help nothing, and all of the vocabulary is tried."""
    for seed in SEEDS:
        said = say(random, random_prompts(random.config, seed, count=1, length=8))
        masked = mask_model(random, folder / "states", seed=seed)
        seen = in_bfloat16(view(masked, random, said))
        for attack in (FIRST, LAST):
            assert rows_found(attack.run(seen), said) > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_attention_scores_name_every_token(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = attention_scores.ATTACK
    assert not attack.fails(scheme, CLIENT)
    seen, said = seen_of_the_demo(attack, folder, scheme, CLIENT, seed)
    assert seen.activations is not None
    rounded = [
        replace(each, scores=each.scores.astype(ml_dtypes.bfloat16).astype(np.float32))
        for each in seen.activations
    ]
    found = attack.run(replace(seen, activations=rounded))
    assert rows_found(found, said) > 0.95
    assert found.key
    for label, indices in found.key.items():
        if scheme == PERMUTATION:
            true = MasterKey.from_base_seed(seed).permutation(label, len(indices))
        else:
            drawn = masked_demo(folder, scheme, CLIENT, seed).key
            true = drawn.get(label, np.arange(len(indices)))
        assert indices.tolist() == true.tolist()
    wrong = attack.run(mistaken(seen))
    assert rows_found(wrong, said) < CHANCE
    assert not wrong.key
    assert "no token" in wrong.reason


def test_scores_with_other_tokens_decide_where_self_scores_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head gives a token only one number, and rounding removes most of its information."""
    model = random_model(
        folder / "one-head", num_attention_heads=1, num_key_value_heads=1, model_type="llama"
    )
    attack = attention_scores.ATTACK
    for seed in SEEDS:
        said = say(model, random_prompts(model.config, seed))
        seen = view(mask_model(model, folder / "one-head-masked", seed=seed), model, said)
        assert seen.activations is not None
        coarse = [
            replace(each, scores=each.scores.astype(ml_dtypes.bfloat16).astype(np.float32))
            for each in seen.activations
        ]
        seen = replace(seen, activations=coarse)
        assert rows_found(attack.run(seen), said) > 0.95
        with monkeypatch.context() as patch:
            patch.setattr(attention_scores, "SWEEPS", 0)
            assert rows_found(attack.run(seen), said) < 0.9
