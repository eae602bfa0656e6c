"""The bar chart of where the time of every step went: an inline SVG in the page's colours.

The plot stretches to the width of the page, so all text is next to it and not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from statistics import median

from stip_client.transport.step_profile import StepProfile
from stip_client.web.panes.markup import escape, milliseconds

PARTS = (
    ("client", "Client", "embedding, masking and sampling"),
    ("wire", "Wire", "the rest of the round trip"),
    ("queue", "Queue", "waiting for the engine"),
    ("compute", "Compute", "the masked layers"),
)
HEIGHT = 100.0
# Places for bars: FEWEST at first, doubled when they are full, up to MOST.
FEWEST, MOST = 32, 128
BAR = 0.72  # the width of a bar, as a share of its place
# A bar is cut off at this multiple of the median, so that the others stay visible.
CUT = 4.0
TICKS = 4


def chart(steps: Sequence[StepProfile]) -> str:
    """The chart of a reply's steps, the last MOST of them."""
    first = max(0, len(steps) - MOST)
    shown = steps[first:]
    places = FEWEST
    while places < len(shown):
        places *= 2
    top, tick = _scale([_total(step) for step in shown])
    bars = "".join(_bar(step, first, place, top) for place, step in enumerate(shown))
    ticks = [tick * number for number in range(round(top / tick) + 1)]
    lines = "".join(
        f'<line x1="0" x2="{places}" y1="{_y(at, top)}" y2="{_y(at, top)}"/>' for at in ticks
    )
    labels = "".join(
        f'<span style="bottom:{100 * at / top:.3f}%">{at * 1e3:g}</span>' for at in ticks
    )
    numbers = "".join(
        f'<span style="left:{100 * (place + 0.5) / places:.3f}%">{first + place + 1}</span>'
        for place in range(places)
        if place == 0 or (place + 1) % (places // 8) == 0
    )
    svg = (
        f'<svg viewBox="0 0 {places} {HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(_description(steps))}">'
        f'<g class="stip-grid">{lines}</g>{bars}</svg>'
    )
    return (
        '<section class="stip-chart" id="stip-chart">'
        f"<header><h2>Latency per step</h2><p>{escape(_summary(steps))}</p>{_legend()}</header>"
        '<div class="stip-plot">'
        '<div class="stip-y-title">milliseconds</div>'
        f'<div class="stip-y">{labels}</div><div class="stip-area">{svg}</div>'
        f'<div class="stip-x">{numbers}</div>'
        '<div class="stip-x-title">step (the first is the prompt)</div>'
        "</div></section>"
    )


def _bar(step: StepProfile, first: int, place: int, top: float) -> str:
    """One stacked bar with its tooltip. A bar that is cut off has a gap near its top."""
    x = place + (1 - BAR) / 2
    number = first + place + 1
    name = "prompt" if number == 1 else "token"
    times = ", ".join(f"{part} {milliseconds(getattr(step, part))}" for part, _, _ in PARTS)
    rows = f"{step.rows} row" + ("s" if step.rows != 1 else "")
    title = f"step {number} ({name}, {rows}): {milliseconds(_total(step))}\n{times}"
    at, rects = 0.0, ""
    for part, _, _ in PARTS:
        end = min(top, at + getattr(step, part))
        if end > at:
            height = HEIGHT * (end - at) / top
            rects += (
                f'<rect class="stip-{part}" x="{x:.2f}" width="{BAR}" '
                f'y="{_y(end, top)}" height="{height:.2f}"/>'
            )
        at = end
    if _total(step) > top:
        rects += f'<rect class="stip-cut" x="{place}" width="1" y="5" height="2.5"/>'
    hover = f'<rect class="stip-hover" x="{place}" width="1" y="0" height="{HEIGHT:g}"/>'
    return f"<g><title>{escape(title)}</title>{rects}{hover}</g>"


def _scale(totals: Sequence[float]) -> tuple[float, float]:
    """The value at the top of the plot and the distance between ticks, both in seconds."""
    if not totals:
        return 0.02, 0.005
    highest = min(max(totals), CUT * median(totals)) if len(totals) > 1 else max(totals)
    rough = max(highest, 1e-4) / TICKS
    power = 10.0 ** floor(log10(rough))
    tick = next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= rough * 0.999)
    return tick * max(1, ceil(highest / tick * 0.999)), tick


def _y(seconds: float, top: float) -> str:
    return f"{HEIGHT * (1 - seconds / top):.2f}"


def _total(step: StepProfile) -> float:
    return step.client + step.wire + step.queue + step.compute


def _legend() -> str:
    entries = "".join(
        f'<li title="{escape(meaning)}"><span class="stip-key stip-{part}"></span>{name}</li>'
        for part, name, meaning in PARTS
    )
    return f'<ul class="stip-legend">{entries}</ul>'


def _summary(steps: Sequence[StepProfile]) -> str:
    if not steps:
        return "Nothing has been sent yet."
    text = f"prompt {milliseconds(_total(steps[0]))}"
    if len(steps) > 1:
        text += f", then {milliseconds(median(map(_total, steps[1:])))} a token (median)"
    return text


def _description(steps: Sequence[StepProfile]) -> str:
    return f"Stacked bars of {len(steps)} steps: {_summary(steps)}"
