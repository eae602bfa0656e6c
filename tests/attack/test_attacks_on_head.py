"""Attacks on the head: its rows as a code book, and its logits.

Each succeeds where it is known to, and fails where it says it does, over three seeds: other
prompts, other keys. A wrong model is another checkpoint of the same shape: with it, an attack is
right about as often as chance is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import UNKNOWN
from stip_keys.audit.attacks import code_book, largest_logits
from tests.support.attack.demo_scenes import CHANCE, seen_of_the_demo
from tests.support.attack.scenes import (
    CLIENT,
    NONE,
    PERMUTATION,
    ROTATION,
    SEALED,
    SEEDS,
    SERVER,
    mask_model,
    random_model,
    random_prompts,
    replies_found,
    rows_found,
    say,
    view,
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_a_tied_head_in_vocabulary_order_names_every_token(
    folder: Path, scheme: Scheme, seed: int
) -> None:
    attack = code_book.ATTACK
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed)
    assert seen.public is None
    assert rows_found(attack.run(seen), said) > 0.95


@pytest.mark.parametrize("head", [CLIENT, SEALED])
def test_another_head_is_no_code_book(folder: Path, head: Head) -> None:
    attack = code_book.ATTACK
    seen, _ = seen_of_the_demo(attack, folder, PERMUTATION, head, 0)
    found = attack.run(seen)
    assert not found.tokens
    assert found.reason == attack.fails(PERMUTATION, head) != ""


def test_a_sealed_head_gives_pseudonyms_that_are_chance_as_tokens(folder: Path) -> None:
    for seed in SEEDS:
        seen, said = seen_of_the_demo(code_book.ATTACK, folder, PERMUTATION, SEALED, seed)
        as_if_open = code_book.ATTACK.run(replace(seen, head=SERVER))
        assert rows_found(as_if_open, said) < CHANCE


def test_a_head_of_its_own_is_no_code_book(folder: Path) -> None:
    model = random_model(folder / "untied", tie_word_embeddings=False)
    for seed in SEEDS:
        said = say(model, random_prompts(model.config, seed))
        masked = mask_model(model, folder / "untied-bundles", seed=seed)
        found = code_book.ATTACK.run(view(masked, model, said))
        assert rows_found(found, said) < CHANCE
        assert "not tied" in found.reason


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_logits_in_vocabulary_order_name_every_reply(
    folder: Path, scheme: Scheme, seed: int
) -> None:
    seen, said = seen_of_the_demo(largest_logits.ATTACK, folder, scheme, SERVER, seed)
    found = largest_logits.ATTACK.run(seen)
    assert replies_found(found, said) > 0.95
    replied = {token for each in said for token in each.reply}
    for candidates, each in zip(found.tokens, said, strict=True):
        sent = np.array(each.rows)
        named = candidates[:, 0] != UNKNOWN
        assert named[len(each.prompt) :].all()
        assert (candidates[named, 0] == sent[named]).all()
        assert set(sent[: len(each.prompt)][~named[: len(each.prompt)]]).isdisjoint(replied)


@pytest.mark.parametrize("head", [CLIENT, SEALED])
def test_another_head_does_not_name_the_reply(folder: Path, head: Head) -> None:
    seen, said = seen_of_the_demo(largest_logits.ATTACK, folder, PERMUTATION, head, 0)
    found = largest_logits.ATTACK.run(seen)
    assert not found.replies
    assert found.reason == largest_logits.ATTACK.fails(PERMUTATION, head) != ""
    if head == SEALED:
        assert replies_found(largest_logits.ATTACK.run(replace(seen, head=SERVER)), said) < CHANCE
