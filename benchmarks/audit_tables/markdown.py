"""The audits of several modes as Markdown tables: a row an attack, a column a mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.audit_tables.modes import Mode
from stip_keys.audit.report import Audit, key_of, percent, share_of
from stip_keys.audit.run import Outcome

Cell = Callable[[Outcome], str]


def as_markdown(audits: Mapping[Mode, Audit]) -> str:
    """What is recovered of prompts and key, then of replies: medians of the seeds."""
    settings = next(iter(audits.values()))
    return (
        f"Medians [and ranges] of {settings.seeds} seeds of {settings.conversations} conversations "
        f"each, with replies of up to {settings.reply_tokens} tokens.\n\n"
        "User tokens recovered / entries of the key recovered, %:\n\n"
        + _table(audits, _prompt_and_key)
        + "\nReply tokens recovered, %:\n\n"
        + _table(audits, lambda outcome: percent(share_of(outcome, "reply")))
    )


def medians(text: str, mode: Mode) -> dict[tuple[int, str, str], list[float]]:
    """The medians in one mode's column, by table, attack and attacker; NaN where there is none."""
    found: dict[tuple[int, str, str], list[float]] = {}
    tables, column = 0, 0
    for line in text.splitlines():
        if not line.startswith("| "):
            continue
        cells = line.strip("| ").split(" | ")
        if cells[0] == "attack":
            tables, column = tables + 1, cells.index(mode.name)
        elif not cells[0].startswith("---"):
            figures = [part.split(" [")[0].strip("<>") for part in cells[column].split(" / ")]
            numbers = [float("nan") if each == "-" else float(each) for each in figures]
            found[tables, cells[0], cells[1]] = numbers
    return found


def reasons(audits: Mapping[Mode, Audit]) -> str:
    """Why attacks fail, as a Markdown list: each reason once, with the modes that it holds in."""
    modes: dict[str, list[str]] = {}
    for mode, audit in audits.items():
        for outcome in audit.outcomes:
            if outcome.reason:
                line = f"{outcome.attack.name} ({outcome.attack.attacker.value}): {outcome.reason}"
                modes.setdefault(line, []).append(mode.name)
    return "".join(f"- {line} ({'; '.join(names)})\n" for line, names in sorted(modes.items()))


def _prompt_and_key(outcome: Outcome) -> str:
    return f"{percent(share_of(outcome, 'user'))} / {percent(key_of(outcome))}"


def _table(audits: Mapping[Mode, Audit], cell: Cell) -> str:
    headings = ["attack", "attacker", *(mode.name for mode in audits)]
    lines = [headings, ["---"] * len(headings)]
    for row in zip(*(audit.outcomes for audit in audits.values()), strict=True):
        attack = row[0].attack
        lines.append([attack.name, attack.attacker.value, *map(cell, row)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
