"""The tables in SECURITY.md are what the audit measures, and README quotes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.audit.markdown import as_markdown, medians
from tests.audit.modes import MODES, Mode, audit_modes

ROOT = Path(__file__).parents[2]
# Percentage points: another machine rounds otherwise, and a reply may differ by a word.
TOLERANCE = 5.0


def measured_tables() -> str:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return text.partition("<!-- make audit -->")[2].partition("<!-- end of make audit -->")[0]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_table_in_security_is_what_the_audit_measures(mode: Mode, tmp_path: Path) -> None:
    told = medians(measured_tables(), mode)
    found = medians(as_markdown(audit_modes(tmp_path, [mode])), mode)
    assert told.keys() == found.keys()
    for row, values in found.items():
        assert told[row] == pytest.approx(values, abs=TOLERANCE, nan_ok=True), row


def test_readme_quotes_rows_of_that_table() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Privacy")[2]
    rows = re.findall(r"^\| .* \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 5
    written = measured_tables().splitlines()
    assert all(row in written for row in rows)
