"""Draws the results of `stip-client bench`. Only this file of the client imports Matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stip_client.cli.benchmark.report import Figures


def draw(found: Sequence[Figures], caption: str, path: Path) -> None:
    """Write a PNG or an SVG: tokens a second, and seconds to wait, over the sessions."""
    # not with pyplot, which would look for a display
    figure = Figure(figsize=(7.5, 9), layout="constrained")
    rates, gaps, firsts = figure.subplots(3, 1, sharex=True)
    _line(rates, found, lambda each: each.total_tokens_per_second, "all sessions", "tab:blue")
    _line(rates, found, lambda each: each.tokens_per_second, "a session", "tab:cyan")
    rates.set_ylabel("tokens/s")
    _line(gaps, found, lambda each: each.gap * 1e3, "median", "tab:orange")
    _line(gaps, found, lambda each: each.gap_p95 * 1e3, "95th percentile", "tab:red")
    gaps.set_ylabel("between tokens (ms)")
    _line(firsts, found, lambda each: each.first_token * 1e3, "median", "tab:green")
    _line(firsts, found, lambda each: each.first_token_p95 * 1e3, "95th percentile", "tab:olive")
    firsts.set_ylabel("to the first token (ms)")
    firsts.set_xlabel("concurrent sessions")
    firsts.set_xticks([each.sessions for each in found])
    for axes in (rates, gaps, firsts):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(caption, fontsize=10)
    figure.savefig(path, dpi=150)


def _line(
    axes: Axes,
    found: Sequence[Figures],
    value: Callable[[Figures], float],
    label: str,
    color: str,
) -> None:
    sessions = [each.sessions for each in found]
    axes.plot(sessions, [value(each) for each in found], marker="o", label=label, color=color)
