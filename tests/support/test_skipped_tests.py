"""The lines about skipped tests at the end of a run."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.support.fixtures.skipped_tests import REMEDIES, remedy_of, summary_of

TESTS = Path(__file__).parents[1]


def skip_reasons() -> set[str]:
    """Every reason that a test gives for skipping, as it stands in the code."""
    reasons = set()
    texts = [file.read_text() for file in TESTS.rglob("*.py")]
    for text in texts:
        for node in ast.walk(ast.parse(text if "skip" in text else "")):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.skip":
                reasons.add(ast.unparse(node.args[0]))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.skipif"):
                reasons |= {
                    ast.unparse(each.value) for each in node.keywords if each.arg == "reason"
                }
    return reasons


def test_every_reason_has_a_remedy() -> None:
    found = skip_reasons()
    assert len(found) >= 5  # the search finds them at all
    fixed = {each for each in found if "{" not in each}
    assert not {each for each in fixed if remedy_of(each) not in REMEDIES.values()}


def test_each_reason_is_one_line_with_its_count() -> None:
    lines = summary_of(["Skipped: there is no Chromium here"] * 21 + ["Skipped: no IPv6 here"])
    assert lines[0].split(".")[0] == "  21 skipped: there is no Chromium here"
    assert "apt-get install chromium" in lines[0]
    assert len(lines) == 2
