"""The statuses that the protocol documents, read from its text."""

from __future__ import annotations

from pathlib import Path

SPEC = Path(__file__).parents[2] / "protos" / "SPEC.md"
SECTION = "## 7. Statuses"
# Section 7 tells of it below the table: gRPC's own, for a message larger than the server receives.
MESSAGE_TOO_LARGE = ("RESOURCE_EXHAUSTED", "")


def documented() -> set[tuple[str, str]]:
    """Every (status, reason) of the table. Raises ValueError if there is no such table."""
    section = SPEC.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    pairs = {
        (status.strip(), reason.strip())
        for status, reasons, *_ in rows[2:]  # below the header and its rule
        for reason in reasons.split(",")
    }
    if not pairs:
        raise ValueError(f"{SPEC} has no table of statuses in {SECTION!r}")
    return pairs | {MESSAGE_TOO_LARGE}
