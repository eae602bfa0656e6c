"""Draws a curve into a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.figures import Curve, Series


def draw(curve: Curve, caption: str, path: Path) -> None:
    """Tokens a second and milliseconds between tokens over the sessions, with their ranges."""
    # not through pyplot, which would look for a display
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    sessions = [point.sessions for point in curve.points]
    rates = [point.rate for point in curve.points]
    _line(above, sessions, rates, "tab:blue", "all sessions together")
    alone = rates[0].median / sessions[0]
    above.plot(
        sessions,
        [alone * count for count in sessions],
        linestyle=":",
        color="tab:gray",
        label=f"{sessions[0]} session's speed times the sessions",
    )
    above.set_ylim(0, 1.2 * max(max(rate.values) for rate in rates))
    above.set_ylabel("decode speed (tokens/s)")
    above.legend(loc="lower right")
    _line(below, sessions, [point.between for point in curve.points], "tab:orange", "one session")
    below.set_ylim(0, 1.2 * max(max(point.between.values) for point in curve.points))
    below.set_ylabel("median time between tokens (ms)")
    below.legend(loc="lower right")
    below.set_xticks(sessions)
    below.set_xlim(0, max(sessions) + 1)
    below.set_xlabel("concurrent sessions")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.suptitle(curve.name, fontsize=11)
    figure.supxlabel(caption, fontsize=8, color="dimgray")
    figure.savefig(path, dpi=150)


def _line(
    axes: Axes, sessions: Sequence[int], series: Sequence[Series], color: str, label: str
) -> None:
    """Medians as a line, each with a bar from the smallest to the largest value and its number."""
    medians = [each.median for each in series]
    low = [each.median - min(each.values) for each in series]
    high = [max(each.values) - each.median for each in series]
    axes.errorbar(
        sessions, medians, yerr=(low, high), marker="o", capsize=3, color=color, label=label
    )
    for count, each in zip(sessions, series, strict=True):
        axes.annotate(
            f"{each.median:,.0f}" if each.median >= 100 else f"{each.median:.3g}",
            (count, max(each.values)),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
