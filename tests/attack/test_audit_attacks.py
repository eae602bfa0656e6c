"""Every attack of the audit succeeds where it is known to, and fails where it says it does.

Over three seeds each: other prompts, other keys. A wrong model is another checkpoint of the same
shape: with it, an attack is right about as often as chance is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit import (
    attention_scores,
    code_book,
    hidden_states,
    known_plaintext,
    output,
    repeated_rows,
    row_norms,
    sealed_vocabulary,
    sorted_values,
    weight_signatures,
)
from stip_keys.audit.attack import UNKNOWN, Attack, Attacker, Findings, Language, PublicModel, View
from stip_keys.audit.permuted_weights import recover_permutations
from stip_keys.audit.tensors import StoredTensors
from stip_keys.bundle import read_manifest
from stip_keys.keys import MasterKey
from tests.attack.languages import frequencies_differ, pairs_matter, sealed_conversations
from tests.attack.scenes import (
    CLIENT,
    NONE,
    PERMUTATION,
    ROTATION,
    SEALED,
    SEEDS,
    SERVER,
    Masked,
    Model,
    Said,
    chats,
    demo_model,
    known_to,
    language,
    mask_model,
    prompts_found,
    random_model,
    random_prompts,
    read_model,
    replies_found,
    rows_found,
    say,
    template,
    view,
    wrong_model,
)
from tests.models import MODELS
from tests.parties import BASE_SEED, convert

# A token in a thousand would be right by chance; a few are by luck.
CHANCE = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacks")


@pytest.fixture(scope="module")
def random(folder: Path) -> Model:
    return random_model(folder / "random")


@cache
def said_to_the_demo(seed: int) -> list[Said]:
    return say(demo_model(), chats(seed))


@cache
def masked_demo(folder: Path, scheme: Scheme, head: Head, seed: int) -> Masked:
    return mask_model(demo_model(), folder, scheme, head, seed)


def seen_of_the_demo(
    attack: Attack, folder: Path, scheme: Scheme, head: Head, seed: int, **more: Any
) -> tuple[View, Sequence[Said]]:
    seen = everything_seen(folder, scheme, head, seed)
    return known_to(attack.attacker, seen, language=demo_language(), **more), said_to_the_demo(seed)


@cache
def everything_seen(folder: Path, scheme: Scheme, head: Head, seed: int) -> View:
    masked = masked_demo(folder, scheme, head, seed)
    return view(masked, demo_model(), said_to_the_demo(seed))


@cache
def demo_language() -> Language:
    """What is known of such conversations: others."""
    said = say(demo_model(), chats(len(SEEDS), count=12))
    return language([each.prompt + each.reply for each in said], demo_model().config.vocab_size)


@cache
def another_model() -> PublicModel:
    return wrong_model(demo_model())


def mistaken(seen: View) -> View:
    """The same, by an attacker who has the wrong model."""
    return replace(seen, public=another_model())


# -- sorted values ------------------------------------------------------------------------------


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


# -- row norms and inner products -----------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_inner_products_name_every_token(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = row_norms.ATTACK
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
            found = row_norms.ATTACK.run(known_to(Attacker.WIRE, view(masked, random, said)))
            assert rows_found(found, said) > 0.95
            assert ("rotation" in found.key) == is_enough
        np.testing.assert_allclose(found.key["rotation"], masked.key["rotation"], atol=2e-3)


# -- known plaintext ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_the_template_is_known_wherever_it_occurs(folder: Path, scheme: Scheme, seed: int) -> None:
    attack = known_plaintext.ATTACKS[0]
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
    attack = known_plaintext.ATTACKS[1]
    seen, said = seen_of_the_demo(attack, folder, scheme, SERVER, seed, template=template())
    found = attack.run(seen)
    assert rows_found(found, said) == 1
    if scheme == PERMUTATION:
        p_0 = masked_demo(folder, scheme, SERVER, seed).key["residual/0"]
        assert found.key["residual/0"].tolist() == p_0.tolist()
    wrong = attack.run(mistaken(seen))
    assert not wrong.key
    template_itself = attack_on_the_template(seen)
    assert rows_found(wrong, said) <= rows_found(template_itself, said) + CHANCE


def attack_on_the_template(seen: View) -> Findings:
    """What the template gives without any model."""
    return known_plaintext.ATTACKS[0].run(seen)


# -- the head as a code book --------------------------------------------------------------------


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


# -- output -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
def test_logits_in_vocabulary_order_name_every_reply(
    folder: Path, scheme: Scheme, seed: int
) -> None:
    seen, said = seen_of_the_demo(output.ATTACK, folder, scheme, SERVER, seed)
    found = output.ATTACK.run(seen)
    assert replies_found(found, said) > 0.95
    replied = {token for each in said for token in each.reply}
    for candidates, each in zip(found.tokens, said, strict=True):
        sent = np.array(each.rows)
        told = candidates[:, 0] != UNKNOWN
        assert told[len(each.prompt) :].all()
        assert (candidates[told, 0] == sent[told]).all()
        assert set(sent[: len(each.prompt)][~told[: len(each.prompt)]]).isdisjoint(replied)


@pytest.mark.parametrize("head", [CLIENT, SEALED])
def test_another_head_does_not_name_the_reply(folder: Path, head: Head) -> None:
    seen, said = seen_of_the_demo(output.ATTACK, folder, PERMUTATION, head, 0)
    found = output.ATTACK.run(seen)
    assert not found.replies
    assert found.reason == output.ATTACK.fails(PERMUTATION, head) != ""
    if head == SEALED:
        assert replies_found(output.ATTACK.run(replace(seen, head=SERVER)), said) < CHANCE


# -- signatures of weights ------------------------------------------------------------------------

HEADS = (SERVER, CLIENT, SEALED)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
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


# -- hidden states --------------------------------------------------------------------------------

FIRST, MIDDLE, LAST, ANSWERS = hidden_states.ATTACKS


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
@pytest.mark.parametrize("attack", [FIRST, MIDDLE, LAST], ids=["first", "middle", "last"])
@pytest.mark.parametrize("scheme", [NONE, PERMUTATION, ROTATION])
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
    if scheme != NONE:  # where it would be the same again
        assert rows_found(ANSWERS.run(mistaken(seen)), said) < CHANCE


def test_logits_are_no_hidden_states(folder: Path) -> None:
    seen, _ = seen_of_the_demo(ANSWERS, folder, PERMUTATION, SERVER, 0)
    found = ANSWERS.run(seen)
    assert not found.tokens
    assert found.reason == ANSWERS.fails(PERMUTATION, SERVER) != ""


def test_random_models_states_name_every_token(folder: Path, random: Model) -> None:
    """Also where the model's own expectations help nothing, and all of the vocabulary is tried."""
    for seed in SEEDS:
        said = say(random, random_prompts(random.config, seed, count=2, length=12))
        masked = mask_model(random, folder / "states", seed=seed)
        seen = in_bfloat16(view(masked, random, said))
        for attack in (FIRST, LAST):
            assert rows_found(attack.run(seen), said) > 0.95


# -- attention scores -----------------------------------------------------------------------------


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
    assert rows_found(attack.run(mistaken(seen)), said) < CHANCE


def test_scores_with_other_tokens_decide_where_self_scores_do_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head gives a token one number, and rounding takes most of what it tells."""
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


# -- languages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_frequencies_name_tokens_where_they_differ_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen, said = sealed_conversations(frequencies_differ(10, 0.6), rng, count=10, length=1000)
    assert rows_found(repeated_rows.run(seen), said) > 0.95
    assert "language" in repeated_rows.run(replace(seen, language=None)).reason


@pytest.mark.parametrize("seed", SEEDS)
def test_frequencies_alone_name_few_tokens_of_a_chat(folder: Path, seed: int) -> None:
    seen, said = seen_of_the_demo(repeated_rows.ATTACK, folder, PERMUTATION, SERVER, seed)
    found = repeated_rows.run(seen)
    assert 0.1 < rows_found(found, said) < 0.5
    assert rows_found(found, said, width=10) > rows_found(found, said)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_of_tokens_unseal_a_vocabulary(seed: int) -> None:
    attack = sealed_vocabulary.ATTACK
    rng = np.random.default_rng(seed)
    seen, said = sealed_conversations(pairs_matter(rng, 100, 5), rng, count=4, length=200)
    found = attack.run(seen)
    assert rows_found(found, said) > 0.95
    assert replies_found(found, said) > 0.95
    assert rows_found(repeated_rows.run(seen), said) < 0.5  # frequencies alone do not
    another, _ = sealed_conversations(pairs_matter(rng, 100, 5), rng, count=1, length=4)
    assert rows_found(attack.run(replace(seen, language=another.language)), said) < 0.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("head", [CLIENT, SEALED])
def test_pairs_add_to_what_the_template_tells_of_a_short_chat(
    folder: Path, head: Head, seed: int
) -> None:
    """A hundred tokens are too few for more: the reply stays all but sealed."""
    attack = sealed_vocabulary.ATTACK
    seen, said = seen_of_the_demo(attack, folder, PERMUTATION, head, seed, template=template())
    found = attack.run(seen)
    assert rows_found(found, said) >= rows_found(attack_on_the_template(seen), said) > 0.3
    assert bool(found.replies) == (head == SEALED)
