"""The report shows the measurements as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.audit_tables.markdown import as_markdown
from benchmarks.audit_tables.modes import Mode
from stip_keys.audit.attack import Attack, Attacker, Findings
from stip_keys.audit.metrics import Measurement, Share, Spread
from stip_keys.audit.plot import check_plot, draw
from stip_keys.audit.report import as_json, as_table, percent
from stip_keys.audit.run import Audit, Outcome
from stip_keys.audit.settings import AuditSettings
from stip_keys.masks.errors import KeysError


def measured(user: int, *, among_ten: int = 0, key: int = 0, reason: str = "") -> Measurement:
    def shares(right: int) -> dict[str, Share]:
        return {"template": Share(10, 10), "user": Share(right, 20), "reply": Share(0, 0)}

    return Measurement(
        shares(user), shares(max(user, among_ten)), Share(1, 4), Share(key, 8), 0.25, reason
    )


def attack(name: str, attacker: Attacker) -> Attack:
    return Attack(name, attacker, "a paper", lambda _: Findings())


OUTCOMES = [
    Outcome(
        attack("sorted values", Attacker.WIRE),
        "",
        [measured(10), measured(12, key=8), measured(20, among_ten=20)],
        measured(1),
    ),
    Outcome(attack("code book", Attacker.HOST_WITHOUT_MODEL), "no head", [measured(0)], None),
]
AUDIT = Audit(
    "permutation",
    "client",
    "qwen2, 4 layers of 192",
    AuditSettings(seeds=3, conversations=8, reply_tokens=24, time_limit=300),
    whole_key=True,
    outcomes=OUTCOMES,
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table_tells_medians_ranges_and_the_control() -> None:
    lines = as_table(AUDIT).splitlines()
    assert lines[0].startswith("scheme permutation, head client: qwen2, 4 layers of 192")
    assert cells(lines[3]) == [
        "sorted values", "wire", "traffic, model", "100", "60 [50–100]", "-", "25", "0 [0–100]",
        "5", "0.25",
    ]  # fmt: skip
    assert cells(lines[4])[:2] == ["code book", "host without the model"]
    assert "code book (host without the model): no head" in as_table(AUDIT)


def test_columns_are_aligned() -> None:
    header, *rows = as_table(AUDIT).splitlines()[2:5]
    for heading in ("attacker", "knows", "user", "key"):
        at = header.index(heading)
        assert all(row[at - 2 : at] == "  " and row[at] != " " for row in rows)


def test_ten_guesses_are_shown_where_they_find_more() -> None:
    outcome = Outcome(OUTCOMES[0].attack, "", [measured(4, among_ten=15)], None)
    audit = replace(AUDIT, outcomes=[outcome])
    assert "  20 (75)  " in as_table(audit)


def test_shares_that_time_cut_short_are_marked() -> None:
    stopped = replace(measured(4), stopped=True)
    for runs, control in (
        ([stopped, measured(4)], measured(0)),
        ([measured(4)], stopped),
    ):
        outcome = Outcome(OUTCOMES[0].attack, "", runs, control)
        row = cells(as_table(replace(AUDIT, outcomes=[outcome])).splitlines()[3])
        marked = [cell.startswith("≥") for cell in row[3:9]]
        of_runs, of_control = runs[0].stopped, control.stopped
        # template, user, prompts; no reply; the key does not come of searches; wrong model
        assert marked == [of_runs, of_runs, False, of_runs, False, of_control]
    described = as_json(replace(AUDIT, outcomes=[outcome]))
    assert described["time_limit"] == 300
    assert described["attacks"][0]["wrong_model"]["stopped"]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0"), (1, "100"), (0.5, "50"), (1 / 3, "33.3"), (0.0001, "<0.1"), (0.9999, ">99.9")],
)
def test_only_exact_shares_are_shown_as_none_or_all(share: float, shown: str) -> None:
    assert percent(Spread(share, share, share)) == shown


def test_json_holds_every_run() -> None:
    described = json.loads(json.dumps(as_json(AUDIT)))
    assert (described["scheme"], described["head"], described["seeds"]) == (
        "permutation", "client", 3,
    )  # fmt: skip
    first, second = described["attacks"]
    assert [run["top_1"]["user"] for run in first["runs"]] == [0.5, 0.6, 1.0]
    assert first["runs"][1]["key"] == 1.0
    assert first["runs"][0]["top_1"]["reply"] is None
    assert first["wrong_model"]["top_1"]["user"] == 0.05
    assert second["wrong_model"] is None and second["reason"] == "no head"


def test_markdown_has_a_column_a_head_and_says_what_differs_and_fails() -> None:
    text = as_markdown({Mode("permutation", "client"): AUDIT, Mode("permutation", "server"): AUDIT})
    user = text.partition("### User tokens, scheme permutation")[2].partition("###")[0]
    (row,) = [line for line in user.splitlines() if line.startswith("| sorted values | wire |")]
    assert row.count(" 60 ") == 2
    ranges, _, reasons = text.partition("### Why attacks fail")
    assert "- sorted values (wire), user tokens: 60 [50–100]\n" in ranges
    assert (
        "(host without the model): no head\n  (permutation, client; permutation, server)" in reasons
    )


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_is_of_the_type_that_was_asked_for(
    tmp_path: Path, suffix: str, begins: bytes
) -> None:
    path = tmp_path / f"audit.{suffix}"
    check_plot(path)
    draw(AUDIT, path)
    assert path.read_bytes().startswith(begins)
    if suffix == "svg":
        assert "sorted values" in path.read_text()


def test_another_type_of_picture_is_refused_before_anything_is_run() -> None:
    with pytest.raises(KeysError, match=r"\.png or \.svg"):
        check_plot(Path("audit.pdf"))


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot write"):
        draw(AUDIT, tmp_path / "missing" / "audit.png")
