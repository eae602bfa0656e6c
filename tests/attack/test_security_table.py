"""The demo model in every mode: no attack fails without a reason, and the tables in docs/privacy.md
and SECURITY.md are what the audit measures.

One test per mode: an audit takes a dozen seconds, and serves every claim about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.audit_tables.markdown import Cell, figures, summary, tables
from benchmarks.audit_tables.modes import MODES, Mode, audit_modes
from stip_keys.audit.attack import Attack
from stip_keys.audit.evidence.prompt_text import KINDS
from stip_keys.audit.report import share_of
from stip_keys.audit.run import Audit, Outcome
from stip_model.bundle.modes import HEADS, SCHEMES

ROOT = Path(__file__).parents[2]
# Percentage points: another machine rounds otherwise, and a reply may differ by a word.
TOLERANCE = 5.0
SUCCESS = 0.95
# of the demo model's 1,536 tokens one in a hundred would be fifteen times chance
CHANCE = 0.01


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_audit_finds_what_security_says(mode: Mode, tmp_path: Path) -> None:
    audits = audit_modes(tmp_path, [mode])
    assert_documented("docs/privacy.md", figures(tables(audits)))
    assert_documented("SECURITY.md", as_permutation(figures(summary(audits))))
    assert_attacks_succeed_or_give_a_reason(audits[mode])
    assert_what_is_said_to_fail_does_fail(audits[mode])
    assert_a_wrong_model_finds_no_more_than_chance(audits[mode])
    if mode.scheme == "none":
        assert_everything_is_read(audits[mode])


def assert_documented(page: str, found: Mapping[Cell, float]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    section = text.partition("<!-- make audit -->")[2].partition("<!-- end of make audit -->")[0]
    documented = figures(section)
    assert found
    for cell, figure in found.items():
        assert documented[cell] == pytest.approx(figure, abs=TOLERANCE, nan_ok=True), cell


def as_permutation(found: Mapping[Cell, float]) -> dict[Cell, float]:
    """SECURITY.md shows one scheme: for a rotation it says that the shares of tokens are the same,
    and that the wire attacker recovers no entry of the key."""
    shown = {}
    for (table, row, scheme, head), figure in found.items():
        if scheme == "rotation" and row[1] == "key entries":
            assert figure == 0 or row[0] != "wire"
        else:
            shown[table, row, "none" if scheme == "none" else "permutation", head] = figure
    return shown


def share(outcome: Outcome, kind: str) -> float:
    spread = share_of(outcome, kind)
    assert spread is not None
    return spread.median


def fails(attack: Attack, audited: Audit) -> str:
    return attack.fails(SCHEMES[audited.scheme], HEADS[audited.head])


def assert_attacks_succeed_or_give_a_reason(audited: Audit) -> None:
    """Attackers that know the model recover everything, others something."""
    for outcome in audited.outcomes:
        attack = outcome.attack
        if outcome.reason:
            continue
        if attack.attacker.knows_model:
            assert share(outcome, "user") >= SUCCESS, attack.name
        assert max(share(outcome, kind) for kind in KINDS) > 0, attack.name


def assert_what_is_said_to_fail_does_fail(audited: Audit) -> None:
    for outcome in audited.outcomes:
        if fails(outcome.attack, audited):
            assert share(outcome, "user") < SUCCESS, outcome.attack.name
            assert share(outcome, "reply") < SUCCESS, outcome.attack.name


def assert_a_wrong_model_finds_no_more_than_chance(audited: Audit) -> None:
    controlled = [each for each in audited.outcomes if each.wrong_model is not None]
    assert controlled
    for outcome in controlled:
        assert outcome.wrong_model is not None
        assert (outcome.wrong_model.top_1["user"].value or 0) <= CHANCE, outcome.attack.name


def assert_everything_is_read(audited: Audit) -> None:
    knowing = [
        each
        for each in audited.outcomes
        if each.attack.attacker.knows_model and not fails(each.attack, audited)
    ]
    assert knowing
    for outcome in knowing:
        assert share(outcome, "user") >= SUCCESS, outcome.attack.name
