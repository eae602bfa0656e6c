"""Draws what the attacks found as bars: one group an attack, one bar each kind of token."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stip_keys.audit.evidence.prompt_text import KINDS
from stip_keys.audit.metrics import Spread
from stip_keys.audit.report import share_of
from stip_keys.audit.run import Audit
from stip_keys.masks.errors import KeysError

SUFFIXES = (".png", ".svg")
COLORS = {"template": "tab:gray", "user": "tab:red", "reply": "tab:blue"}
BAR = 0.26  # of the height of an attack's group


def check_plot(path: Path) -> None:
    """Raise KeysError where a plot could not be drawn into `path`."""
    if path.suffix not in SUFFIXES:
        raise KeysError(
            f"--plot {path}: pictures are {' or '.join(SUFFIXES)}", hint="--plot audit.png"
        )
    if find_spec("matplotlib") is None:
        raise KeysError(
            "--plot needs matplotlib, which is not installed",
            hint='pip install ".[plot]" in the folder of this project',
        )


def draw(audit: Audit, path: Path) -> None:
    """Write the plot, a .png or .svg. Raises KeysError where it cannot be written."""
    # the package of an extra; and not through pyplot, which would look for a display
    from matplotlib.figure import Figure

    outcomes = audit.outcomes
    figure = Figure(figsize=(9, 1.4 + 0.55 * len(outcomes)), layout="constrained")
    axes = figure.subplots()
    for k, kind in enumerate(KINDS):
        spreads = [share_of(outcome, kind) or Spread(0, 0, 0) for outcome in outcomes]
        axes.barh(
            [position + (k - 1) * BAR for position in range(len(outcomes))],
            [100 * each.median for each in spreads],
            height=BAR,
            color=COLORS[kind],
            label=f"{kind} tokens",
            xerr=(
                [100 * (each.median - each.low) for each in spreads],
                [100 * (each.high - each.median) for each in spreads],
            ),
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        for position, spread in enumerate(spreads):
            axes.text(
                100 * spread.high + 2,
                position + (k - 1) * BAR,
                f"{100 * spread.median:.0f}",
                va="center",
                fontsize=7,
            )
    names = [f"{each.attack.name}\n{each.attack.attacker.value}" for each in outcomes]
    axes.set_yticks(range(len(outcomes)), names, fontsize=8)
    axes.set_ylim(len(outcomes) - 0.5, -0.5)  # the first on top
    axes.set_xlim(0, 110)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"tokens recovered at the first guess (%), median and range of {audit.settings.seeds} seeds"
    )
    axes.set_title(f"scheme {audit.scheme}, head {audit.head}\n{audit.model}", fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(KINDS), fontsize=8)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror}") from error
