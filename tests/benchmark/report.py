"""The results as a table for people, results.md, and with every sample, results.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmark.figures import Figure, Skipped

HEADER = """\
| figure | value | target | | ours | compared with |
|---|---|---|---|---|---|
"""


@dataclass
class Report:
    """One run: where and when it ran, and the figures so far."""

    machine: dict[str, Any]
    date: str
    repeats: int
    figures: list[Figure | Skipped] = field(default_factory=list)

    def markdown(self) -> str:
        """The table, with the machine under it."""
        rows = "".join(_row(figure) + "\n" for figure in self.figures)
        notes = "".join(
            f"- {figure.name}: {figure.note}\n"
            for figure in self.figures
            if isinstance(figure, Figure) and figure.note
        )
        machine = "".join(f"- {name}: {value}\n" for name, value in self.machine.items())
        return (
            f"# Benchmark of {self.date}\n\n{HEADER}{rows}\n"
            f"Medians of {self.repeats} repetitions with the smallest and largest; values without "
            "a range were taken once.\n"
            "A ratio (x) is mlx-lm's median time divided by ours, so more is better; its range is "
            "that of the pairs.\nThe two sides take turns after one warm-up each.\n"
            f"{notes and chr(10)}{notes}\n{machine}"
        )

    def write(self, folder: Path) -> None:
        """Write results.md and results.json."""
        content = {
            "date": self.date,
            "machine": self.machine,
            "repeats": self.repeats,
            "figures": [figure.to_json() for figure in self.figures],
        }
        (folder / "results.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def line(figure: Figure | Skipped) -> str:
    """A figure on one line, for the terminal while the rest is still running."""
    if isinstance(figure, Skipped):
        return f"{figure.name}: skipped: {figure.reason}"
    text = f"{figure.name}: {_value(figure)}, target {_target(figure)}: {_verdict(figure)}"
    return f"{text} [{figure.note}]" if figure.note else text


def _row(figure: Figure | Skipped) -> str:
    if isinstance(figure, Skipped):
        return f"| {figure.name} | | | skipped | {figure.reason} | |"
    baseline = figure.baseline
    cells = [
        figure.name,
        _value(figure),
        _target(figure),
        _verdict(figure),
        f"{figure.ours.text}: {figure.ours.name}",
        f"{baseline.text}: {baseline.name}" if baseline else "",
    ]
    return f"| {' | '.join(cells)} |"


def _value(figure: Figure) -> str:
    text = f"{figure.value:.3g} {figure.unit}"
    if figure.spread is None:
        return text
    smallest, largest = figure.spread
    return f"{text} ({smallest:.3g} to {largest:.3g})"


def _target(figure: Figure) -> str:
    return f"{figure.target.relation} {figure.target.bound:g} {figure.unit}"


def _verdict(figure: Figure) -> str:
    return "reached" if figure.reached else "MISSED"
