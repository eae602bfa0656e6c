"""The results as tables for people, results.md, with every sample, results.json, and as a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.figures import Curve, Figure, Skipped
from benchmarks.speed.plot import draw

HEADER = """\
| figure | value | target | | ours | compared with |
|---|---|---|---|---|---|
"""
CURVE_HEADER = """\
| sessions | tokens/s, all together | ms between a session's tokens |
|---|---|---|
"""
PLOT = "batch.png"


@dataclass
class Report:
    """One run: where and when it ran, and the figures so far."""

    machine: dict[str, Any]
    date: str
    repeats: int
    figures: list[Figure | Skipped] = field(default_factory=list)
    curve: Curve | None = None

    def add(self, result: Figure | Skipped | Curve) -> None:
        """Take what a scenario has yielded."""
        if isinstance(result, Curve):
            self.curve = result
        else:
            self.figures.append(result)

    def markdown(self) -> str:
        """The tables, with the machine under them."""
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
            "A ratio (x) is of the two medians, ours the faster above 1; its range is that of the "
            "pairs.\nThe two sides take turns after one warm-up each.\n"
            f"{notes and chr(10)}{notes}\n{self._curve_markdown()}{machine}"
        )

    def _curve_markdown(self) -> str:
        if self.curve is None:
            return ""
        rows = "".join(
            f"| {point.sessions} | {point.rate.text} | {point.between.text} |\n"
            for point in self.curve.points
        )
        return f"## {self.curve.name}\n\n{CURVE_HEADER}{rows}\nThe plot is {PLOT}.\n\n"

    def write(self, folder: Path) -> None:
        """Write results.md and results.json, and the plot if there is a curve."""
        content = {
            "date": self.date,
            "machine": self.machine,
            "repeats": self.repeats,
            "figures": [figure.to_json() for figure in self.figures],
            "curve": self.curve.to_json() if self.curve else None,
        }
        (folder / "results.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if self.curve is not None:
            draw(self.curve, self._caption(), folder / PLOT)

    def _caption(self) -> str:
        cpu, cores, memory, mlx, blas = (
            self.machine[name] for name in ("cpu", "cores", "memory", "mlx", "blas")
        )
        return (
            f"{cpu}, {cores} cores, {memory}; MLX {mlx}, {blas}; {self.date[:10]}\n"
            f"medians of {self.repeats} repetitions, bars from the smallest to the largest"
        )


def line(figure: Figure | Skipped | Curve) -> str:
    """A figure on one line, for the terminal while the rest is still running."""
    if isinstance(figure, Curve):
        rates = ", ".join(f"{each.rate.median:.3g} with {each.sessions}" for each in figure.points)
        return f"{figure.name}: tokens/s: {rates}"
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
