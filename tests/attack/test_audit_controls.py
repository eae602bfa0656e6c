"""Controls: the wrong model is another model, and every attack is found and has its own name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.audit_tables.modes import Mode, make_subject
from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit import attacks
from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.attacks import attack_names, load_attacks
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject, public_model
from stip_keys.audit.evidence.traffic import hold_dialogues
from stip_keys.audit.run import run_attacks, steps, wrong_model
from stip_keys.audit.settings import AuditSettings
from stip_keys.convert.checkpoint import Checkpoint
from tests.support.models.random_checkpoint import RandomCheckpoint

MADE = Attack("made", Attacker.WIRE, "none", lambda _: Findings())
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
    before = attack_names()
    (tmp_path / "one_more.py").write_text(
        "from tests.attack.test_audit_controls import MADE\nATTACK = MADE"
    )
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    assert set(attack_names()) == {*before, "one-more"}
    assert load_attacks(["one-more"]) == [MADE]
    del sys.modules["stip_keys.audit.attacks.one_more"]


# Prints which attacks are imported: after --help and a refused name, and then by each attack.
IMPORTED = """
import sys
from stip_keys.audit.attacks import attack_names, load_attacks
from stip_keys.cli import main

def imported():
    prefix = "stip_keys.audit.attacks."
    return [name for name in sys.modules if name.startswith(prefix)]

try:
    main(["audit", "--help"])
except SystemExit:
    main(["audit", "x", "--checkpoint", "x", "--attacks", "guessing"])
print("imported:", *imported())
for name in attack_names():
    load_attacks([name])
    print("imported:", *imported())
    for module in imported():
        del sys.modules[module]
"""


def test_help_imports_no_attack_and_a_run_only_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    assert "no attack is named 'guessing'" in done.stderr
    listed = done.stdout.partition("attacks:\n")[2].partition("imported:")[0]
    assert re.findall(r"[\w-]+", listed) == attack_names()
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("imported:")]
    modules = [f"{attacks.__name__}.{name.replace('-', '_')}" for name in attack_names()]
    assert found == [[], *([module] for module in modules)]


def test_attacks_are_called_as_their_files_and_name_their_source() -> None:
    for name in attack_names():
        (attack,) = load_attacks([name])
        assert "-".join(re.findall("[a-z0-9]+", attack.name)) == name
        assert attack.source


def test_each_seed_brings_other_prompts_and_the_control_comes_once(subject: Subject) -> None:
    prompts = make_prompts(subject.checkpoint, None)
    dialogues = hold_dialogues(subject.public, prompts, 3, [])
    views: list[View] = []

    def run(view: View) -> Findings:
        views.append(view)
        return Findings(reason="only looks")

    made = [Attack(each.value, each, "none", run) for each in Attacker]
    titles: list[str] = []
    outcomes = run_attacks(
        subject,
        made,
        dialogues,
        {},
        AuditSettings(seeds=3, conversations=5, time_limit=7),
        titles.append,
    )
    assert len(titles) == len(views) == steps(made, 3) == 14
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
    (outcome,) = run_attacks(subject, [attack], dialogues, {}, AuditSettings(1, 2))
    assert outcome.reason == "SCHEME_PERMUTATION HEAD_SERVER"
