"""Every attack on the demo model in every mode, at small settings: none fails without a reason."""

from __future__ import annotations

import pytest

from stip_keys.audit.attack import Attacker
from stip_keys.audit.report import Audit, share_of
from stip_keys.audit.run import Outcome
from stip_keys.audit.text import KINDS
from tests.audit.modes import MODES, Mode, audit_modes

SUCCESS = 0.95
# of the demo model's 1,536 tokens one in a hundred would be fifteen times chance
CHANCE = 0.01


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: mode.name)
def audited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    mode: Mode = request.param
    audits = audit_modes(
        tmp_path_factory.mktemp("modes"), [mode], seeds=1, conversations=2, reply_tokens=4
    )
    return audits[mode]


def found(outcome: Outcome, kind: str) -> float:
    share = share_of(outcome, kind)
    assert share is not None
    return share.median


def test_attacks_succeed_or_tell_why_not(audited: Audit) -> None:
    """Whoever knows the model reads everything, others something."""
    for outcome in audited.outcomes:
        attack = outcome.attack
        if outcome.reason:
            continue
        if attack.attacker in (Attacker.WIRE, Attacker.HOST):
            assert found(outcome, "user") >= SUCCESS, attack.name
        assert max(found(outcome, kind) for kind in KINDS) > 0, attack.name


def test_what_is_said_to_fail_does_fail(audited: Audit) -> None:
    for outcome in audited.outcomes:
        if outcome.attack.fails(audited.scheme, audited.head):
            assert found(outcome, "user") < SUCCESS, outcome.attack.name
            assert found(outcome, "reply") < SUCCESS, outcome.attack.name


def test_a_wrong_model_finds_no_more_than_chance(audited: Audit) -> None:
    controlled = [each for each in audited.outcomes if each.wrong_model is not None]
    assert controlled
    for outcome in controlled:
        assert outcome.wrong_model is not None
        assert (outcome.wrong_model.top_1["user"].value or 0) <= CHANCE, outcome.attack.name


def test_without_a_mask_everything_is_read(audited: Audit) -> None:
    if audited.scheme_name != "none":
        pytest.skip("a control of scheme none")
    knowing = [
        each
        for each in audited.outcomes
        if each.attack.attacker in (Attacker.WIRE, Attacker.HOST)
        and not each.attack.fails(audited.scheme, audited.head)
    ]
    assert knowing
    for outcome in knowing:
        assert found(outcome, "user") >= SUCCESS, outcome.attack.name
