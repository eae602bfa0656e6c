"""Controls: the wrong model is another model, and every attack is found and told apart."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import stip_keys.audit.attacks
from benchmarks.audit_tables.modes import Mode, make_subject
from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.audit import option_name
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject, public_model
from stip_keys.audit.evidence.traffic import hold_dialogues
from stip_keys.audit.run import discover, run_attacks, steps, wrong_model
from stip_keys.convert.checkpoint import Checkpoint
from tests.support.models.random_checkpoint import RandomCheckpoint

MADE = [Attack(f"made {k}", Attacker.WIRE, "none", lambda _: Findings()) for k in range(3)]
MODEL = RandomCheckpoint(num_hidden_layers=2, seed=6)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("controls")
    checkpoint = Checkpoint(MODEL.write(folder / "checkpoint"))
    return make_subject(folder, Mode("permutation", "server"), checkpoint)


def test_the_wrong_model_is_of_the_same_shape_and_has_nothing_else_in_common(
    tmp_path: Path,
) -> None:
    right = public_model(Checkpoint(MODEL.write(tmp_path / "checkpoint")))
    wrong, other = wrong_model(right), wrong_model(right, seed=1)
    assert set(wrong.tensors) == set(right.tensors)
    for name, tensor in right.tensors.items():
        drawn = wrong.tensors[name]
        assert drawn.shape == tensor.shape
        if drawn.size > 1000:
            assert abs(np.corrcoef(drawn.ravel(), tensor.ravel())[0, 1]) < 0.1
            assert drawn.std() == pytest.approx(tensor.std(), rel=0.1)
        np.testing.assert_array_equal(drawn, wrong.tensors[name])  # the same each time it is read
        assert not np.array_equal(drawn, other.tensors[name])
    np.testing.assert_array_equal(
        wrong.embedding, wrong.tensors["model.embed_tokens.weight"].astype(np.float16)
    )


def test_an_attack_is_found_by_its_presence_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = discover()
    for name, text in {"one_more": "ATTACK = MADE[0]", "two_more": "ATTACKS = MADE[1:]"}.items():
        (tmp_path / f"{name}.py").write_text(
            f"from tests.attack.test_audit_controls import MADE\n{text}"
        )
    monkeypatch.setattr(
        stip_keys.audit.attacks, "__path__", [*stip_keys.audit.attacks.__path__, str(tmp_path)]
    )
    found = discover()
    assert {id(each) for each in found} == {id(each) for each in (*before, *MADE)}
    for name in ("one_more", "two_more"):
        del sys.modules[f"stip_keys.audit.attacks.{name}"]


def test_attacks_are_told_apart_and_name_their_source() -> None:
    attacks = discover()
    assert len({(option_name(each), each.attacker) for each in attacks}) == len(attacks) > 0
    assert all(each.source for each in attacks)


def test_each_seed_brings_other_prompts_and_the_control_comes_once(subject: Subject) -> None:
    prompts = make_prompts(subject.checkpoint, None)
    dialogues = hold_dialogues(subject.public, prompts, 3, [])
    views: list[View] = []

    def run(view: View) -> Findings:
        views.append(view)
        return Findings(reason="only looks")

    attacks = [Attack(each.value, each, "none", run) for each in Attacker]
    told: list[str] = []
    outcomes = run_attacks(
        subject,
        attacks,
        dialogues,
        {},
        seeds=3,
        conversations=5,
        time_limit=7,
        step=told.append,
    )
    assert len(told) == len(views) == steps(attacks, 3) == 14
    assert [len(each.runs) for each in outcomes] == [3] * 4
    with_control = {each.attack.attacker for each in outcomes if each.wrong_model is not None}
    assert with_control == {Attacker.WIRE, Attacker.HOST}
    assert {each.reason for each in outcomes} == {"only looks"}
    sent = {tuple(c.sent.tobytes() for c in view.conversations) for view in views}
    assert len(sent) == 3
    assert all(len(view.conversations) == 5 and view.time_limit == 7 for view in views)
    everything = sum(len(each.prompt.tokens) + len(each.reply) for each in dialogues)
    for view in views:  # what is attacked is no part of what is known of the language
        assert view.language is not None
        attacked = sum(len(each.sent) + 1 for each in view.conversations)
        assert view.language.unigrams.sum() == everything - attacked
    models = [view.public for view in views if view.public is not None]
    assert len({id(model) for model in models}) == 2
    assert sum(model is subject.public for model in models) == 6


def test_a_reason_given_beforehand_stands_before_the_one_found(subject: Subject) -> None:
    dialogues = hold_dialogues(subject.public, make_prompts(subject.checkpoint, None)[:4], 2, [])

    def fails(scheme: Scheme, head: Head) -> str:
        return f"{Scheme.Name(scheme)} {Head.Name(head)}"

    attack = Attack("a", Attacker.OBSERVER, "none", lambda _: Findings(reason="found"), fails)
    (outcome,) = run_attacks(subject, [attack], dialogues, {}, seeds=1, conversations=2)
    assert outcome.reason == "SCHEME_PERMUTATION HEAD_SERVER"
