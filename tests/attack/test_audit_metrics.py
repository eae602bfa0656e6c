"""Metrics credit an attack with exactly what it found."""

from __future__ import annotations

import numpy as np
import pytest

from stip_keys.audit.attack import UNKNOWN, Findings
from stip_keys.audit.evidence.prompt_text import TEMPLATE, USER, Prompt
from stip_keys.audit.evidence.traffic import Dialogue
from stip_keys.audit.metrics import Measurement, Share, Spread, measure

# template 90 91, user's 1 2 3, template 92; the reply 5 6 7, of which 7 is not sent
FIRST = Dialogue(
    Prompt(
        np.array([90, 91, 1, 2, 3, 92]),
        np.array([TEMPLATE, TEMPLATE, USER, USER, USER, TEMPLATE]),
    ),
    np.array([5, 6, 7]),
)
SECOND = Dialogue(Prompt(np.array([4]), np.array([USER])), np.array([8]))
BOTH = (FIRST, SECOND)
ALL = [FIRST.sent[:, None], SECOND.sent[:, None]]


def measured(findings: Findings, **key: np.ndarray) -> Measurement:
    return measure(findings, BOTH, key, 0.5)


def test_everything_found_is_all_of_it() -> None:
    found = measured(Findings(ALL))
    assert found.top_1 == {"template": Share(3, 3), "user": Share(4, 4), "reply": Share(2, 2)}
    assert found.top_10 == found.top_1
    assert found.prompts == Share(2, 2)


def test_nothing_found_is_nothing_of_it() -> None:
    for found in (measured(Findings()), measured(Findings([0 * each + UNKNOWN for each in ALL]))):
        assert [share.right for share in found.top_1.values()] == [0, 0, 0]
        assert [share.total for share in found.top_1.values()] == [3, 4, 2]
        assert found.prompts == Share(0, 2)


def test_no_candidates_for_a_row_are_no_hit() -> None:
    none = [np.empty((len(each), 0), np.int64) for each in ALL]
    assert measured(Findings(none)).top_10["user"] == Share(0, 4)


def test_a_later_candidate_counts_among_ten_only() -> None:
    second_guess = [np.hstack([each + 1, each]) for each in ALL]
    found = measured(Findings(second_guess))
    assert found.top_1["user"] == Share(0, 4)
    assert found.top_10["user"] == Share(4, 4)
    assert found.prompts == Share(0, 2)


def test_a_prompt_is_exact_when_its_user_tokens_are() -> None:
    without_template = [ALL[0].copy(), ALL[1]]
    without_template[0][0] = UNKNOWN
    found = measured(Findings(without_template))
    assert found.top_1["template"] == Share(2, 3)
    assert found.prompts == Share(2, 2)
    one_user_token_less = [ALL[0].copy(), ALL[1]]
    one_user_token_less[0][3] = UNKNOWN
    assert measured(Findings(one_user_token_less)).prompts == Share(1, 2)


def test_replies_are_judged_by_the_answers_where_an_attack_claims_them() -> None:
    by_answers = Findings(replies=[FIRST.reply[:, None], SECOND.reply[:, None] + 1])
    found = measured(by_answers)
    assert found.top_1["reply"] == Share(3, 4)
    assert found.top_1["user"] == Share(0, 4)


@pytest.mark.parametrize("wrong", [ALL[:1], [ALL[0][1:], ALL[1]], [ALL[0][:, 0], ALL[1]]])
def test_findings_that_do_not_fit_the_traffic_are_an_error(wrong: list[np.ndarray]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - a fault of the attack, whatever its text
        measured(Findings(wrong))


def test_the_key_is_counted_by_entries_of_all_masks() -> None:
    true = {"residual/0": np.array([2, 0, 1]), "layer/0/mlp": np.array([1, 0])}
    half = {"residual/0": np.array([2, 1, 0]), "residual/9": np.array([0])}
    assert measured(Findings(key=true), **true).key == Share(5, 5)
    assert measured(Findings(key=half), **true).key == Share(1, 5)
    assert measured(Findings(), **true).key == Share(0, 5)
    assert measured(Findings(key=true)).key.value is None


def test_a_permutation_of_another_length_is_none_of_the_key() -> None:
    true = {"residual/0": np.array([1, 0])}
    assert measured(Findings(key={"residual/0": np.array([1])}), **true).key == Share(0, 2)


def test_a_rotation_is_counted_by_columns_that_point_the_right_way() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    found = rotation * 1.3
    found[:, 1] *= -1
    found[:, 2] = rotation[:, 3]
    assert measured(Findings(key={"rotation": found}), rotation=rotation).key == Share(4, 6)
    assert measured(Findings(key={"rotation": 0 * found}), rotation=rotation).key == Share(0, 6)


def test_a_spread_is_the_median_and_the_range_of_what_there_is() -> None:
    assert Spread.of([0.5, 0.25, 1.0, None]) == Spread(0.5, 0.25, 1.0)
    assert Spread.of([None]) is None
