"""The audits of several modes as Markdown tables: one row per attack, one column per head.

docs/privacy.md holds all of them, SECURITY.md the summary. `figures` reads them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from benchmarks.audit_tables.modes import MODES, Mode
from stip_keys.audit.metrics import Spread
from stip_keys.audit.report import key_of, percent, share_of
from stip_keys.audit.run import Audit, Outcome

# What a table shows of an outcome, by its heading.
RECOVERED: Mapping[str, Callable[[Outcome], Spread | None]] = {
    "User tokens": lambda outcome: share_of(outcome, "user"),
    "Reply tokens": lambda outcome: share_of(outcome, "reply"),
    "Key entries": key_of,
}
SCHEMES = ("permutation", "rotation")
# (table, first cells of the row, scheme, head)
Cell = tuple[str, tuple[str, ...], str, str]


def as_markdown(audits: Mapping[Mode, Audit]) -> str:
    """All tables, the ranges over the seeds, and why attacks fail."""
    return f"{tables(audits)}{_ranges(audits)}\n### Why attacks fail\n\n{_reasons(audits)}"


def tables(audits: Mapping[Mode, Audit]) -> str:
    """One table per measure and scheme: medians over the seeds, in percent."""
    found = []
    for what, value in RECOVERED.items():
        for scheme in SCHEMES:
            if modes := _columns(audits, scheme):
                rows = zip(*(audits[mode].outcomes for mode in modes), strict=True)
                lines = [
                    [
                        row[0].attack.name,
                        row[0].attack.attacker.value,
                        *(_median(value(outcome)) for outcome in row),
                    ]
                    for row in rows
                ]
                found.append(
                    f"### {what}, scheme {scheme}\n\n"
                    + _table(["attack", "attacker", *map(_heading, modes)], lines)
                )
    return "\n".join(found)


def summary(audits: Mapping[Mode, Audit]) -> str:
    """What the strongest attack of each attacker recovers: medians over the seeds, in percent."""
    found = []
    for scheme in SCHEMES:
        if modes := _columns(audits, scheme):
            rows = zip(*(audits[mode].outcomes for mode in modes), strict=True)
            lines = []
            for attacker, of_one in groupby(rows, lambda row: row[0].attack.attacker):
                theirs = list(of_one)
                for what, value in RECOVERED.items():
                    best = [_strongest(value(row[k]) for row in theirs) for k in range(len(modes))]
                    lines.append([attacker.value, what.lower(), *best])
            found.append(
                f"### Scheme {scheme}\n\n"
                + _table(["attacker", "reads", *map(_heading, modes)], lines)
            )
    return "\n".join(found)


def figures(text: str) -> dict[Cell, float]:
    """The numbers in Markdown tables that `tables` or `summary` made; NaN where there is none."""
    found: dict[Cell, float] = {}
    table, scheme, heads = "", "", [""]
    for line in text.splitlines():
        if line.startswith("### "):
            table, _, scheme = line.removeprefix("### ").lower().rpartition("scheme ")
        elif line.startswith("| ") and scheme in SCHEMES:
            cells = line.strip("| ").split(" | ")
            if cells[0].startswith("---"):
                continue
            if cells[0].startswith("attack"):
                heads = cells[2:]
                continue
            for head, cell in zip(heads, cells[2:], strict=True):
                number = float("nan") if cell == "-" else float(cell.strip("<>"))
                where = ("none", "server") if head == "no mask" else (scheme, head)
                found[table, tuple(cells[:2]), *where] = number
    return found


def _columns(audits: Mapping[Mode, Audit], scheme: str) -> list[Mode]:
    """The modes of a scheme; the control without a mask stands next to the permutations."""
    control = ["none"] if scheme == SCHEMES[0] else []
    return [mode for mode in MODES if mode in audits and mode.scheme in (scheme, *control)]


def _heading(mode: Mode) -> str:
    return "no mask" if mode.scheme == "none" else mode.head


def _median(spread: Spread | None) -> str:
    return percent(spread and Spread(spread.median, spread.median, spread.median))


def _strongest(spreads: Iterator[Spread | None]) -> str:
    known = [spread for spread in spreads if spread is not None]
    return _median(max(known, key=lambda spread: spread.median, default=None))


def _ranges(audits: Mapping[Mode, Audit]) -> str:
    """Where the seeds differ: least and most, as a list."""
    modes: dict[str, list[str]] = {}
    for mode, audit in audits.items():
        for outcome in audit.outcomes:
            for what, value in RECOVERED.items():
                spread = value(outcome)
                if spread is not None and spread.low != spread.high:
                    name = f"{outcome.attack.name} ({outcome.attack.attacker.value})"
                    line = f"{name}, {what.lower()}: {percent(spread)}"
                    modes.setdefault(line, []).append(mode.name)
    return f"\n### Ranges over the seeds\n\n{_grouped(modes)}" if modes else ""


def _reasons(audits: Mapping[Mode, Audit]) -> str:
    """Each reason once, with the modes in which it holds."""
    modes: dict[str, list[str]] = {}
    for mode, audit in audits.items():
        for outcome in audit.outcomes:
            if outcome.reason:
                line = f"{outcome.attack.name} ({outcome.attack.attacker.value}): {outcome.reason}"
                modes.setdefault(line, []).append(mode.name)
    return _grouped(modes)


def _grouped(modes: Mapping[str, Sequence[str]]) -> str:
    return "".join(f"- {line}\n  ({'; '.join(names)})\n" for line, names in sorted(modes.items()))


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
