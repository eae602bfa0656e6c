"""What a scenario yields: figures with their target or a curve, and the samples behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

# the largest value of a series over its smallest, beyond which it says little
STEADY = 1.25
UNSTEADY = "; UNSTEADY: run it again on a machine that does nothing else"


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing."""

    name: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def steady(self) -> bool:
        """Whether the machine did little else: values far apart come from other processes."""
        return max(self.values) <= STEADY * min(self.values)

    @property
    def text(self) -> str:
        """The median with the smallest and largest value."""
        text = f"{self.median:.4g}"
        if len(self.values) > 1:
            text += f" ({min(self.values):.4g} to {max(self.values):.4g})"
        return f"{text} {self.unit}"

    def to_json(self) -> dict[str, Any]:
        """The samples as they are, and their median."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
        }


@dataclass(frozen=True)
class Target:
    """What a figure is to reach."""

    relation: Literal[">=", "<=", "<"]
    bound: float

    def reached_by(self, value: float) -> bool:
        """Whether the unrounded value reaches it."""
        if self.relation == ">=":
            return value >= self.bound
        return value <= self.bound if self.relation == "<=" else value < self.bound


@dataclass(frozen=True)
class Figure:
    """One number with its target, what it was computed from, and what it was compared with."""

    scenario: str
    name: str
    value: float
    unit: str
    target: Target
    ours: Series
    baseline: Series | None = None
    spread: tuple[float, float] | None = None  # a ratio's smallest and largest pair
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.target.reached_by(self.value)

    def to_json(self) -> dict[str, Any]:
        """Everything, for results.json."""
        return {
            "scenario": self.scenario,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": f"{self.target.relation} {self.target.bound}",
            "reached": self.reached,
            "ours": self.ours.to_json(),
            "baseline": self.baseline.to_json() if self.baseline else None,
            "spread": self.spread,
            "note": self.note,
        }


@dataclass(frozen=True)
class Point:
    """What was measured with some sessions at once: all together, and one of them."""

    sessions: int
    rate: Series
    between: Series


@dataclass(frozen=True)
class Curve:
    """Measurements over the number of sessions; no target, but a table and a plot."""

    scenario: str
    name: str
    points: list[Point]

    def to_json(self) -> dict[str, Any]:
        """Everything, for results.json."""
        return {
            "scenario": self.scenario,
            "name": self.name,
            "points": [
                {
                    "sessions": point.sessions,
                    "rate": point.rate.to_json(),
                    "between": point.between.to_json(),
                }
                for point in self.points
            ],
        }


@dataclass(frozen=True)
class Skipped:
    """A figure that this machine cannot give, and why."""

    scenario: str
    name: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For results.json."""
        return {"scenario": self.scenario, "name": self.name, "skipped": self.reason}


def agreeing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens agree from the first on: a comparison of different work is worth nothing."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return next((n for n, (a, b) in pairs if a != b), len(ours))
