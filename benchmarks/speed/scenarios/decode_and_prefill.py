"""Scenarios about speed, as ratios to mlx-lm on the same machine in the same run.

Repetitions alternate between the two sides after one warm-up of each, so that a machine that slows
down slows both. A ratio is mlx-lm's median time divided by ours: above 1 we are the faster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from benchmarks.speed.compared_programs import Side, mlx_lm, stip
from benchmarks.speed.figures import UNSTEADY, Figure, Series, Target, agreeing
from benchmarks.speed.models import DEMO, QWEN_0_5B
from benchmarks.speed.timing import Timing
from benchmarks.speed.workspace import Workspace

PACKAGED_DEMO = Path(str(resources.files("stip_client"))) / "cli" / "demo_model"


def decode(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Decoding one stream at 0.5B: same type, same BLAS."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    with stip(workspace.bundles(checkpoint)) as ours, mlx_lm(checkpoint) as baseline:
        runs = Runs(ours, baseline, QWEN_0_5B.vocab_size, prompt=16, new=32, repeats=repeats)
    yield runs.decode_ratio("decode", "decode at 0.5B, same type and BLAS", 0.95)


def wheel(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Decoding one stream at 0.5B: mlx-lm with the checkpoint's bfloat16 and its wheel's BLAS."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    installed = mlx_lm(checkpoint, dtype="checkpoint", blas="bundled")
    with stip(workspace.bundles(checkpoint)) as ours, installed as baseline:
        runs = Runs(ours, baseline, QWEN_0_5B.vocab_size, prompt=16, new=12, repeats=repeats)
    yield runs.decode_ratio("wheel", "decode at 0.5B, mlx-lm as its wheel comes", 3.0)


def prefill(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """The time to the first token of a reply to 512 tokens at 0.5B: ours includes opening a
    session and sending the hidden states."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    with stip(workspace.bundles(checkpoint)) as ours, mlx_lm(checkpoint) as baseline:
        runs = Runs(ours, baseline, QWEN_0_5B.vocab_size, prompt=512, new=1, repeats=repeats)
    yield runs.prefill_ratio("prefill", "first token after 512 at 0.5B, same type and BLAS", 1.0)


def demo(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Decoding one stream with the demo model, where the protocol's share of the time is largest.

    A random checkpoint of its dimensions takes its place where the package does not hold it.
    """
    packaged = (PACKAGED_DEMO / "config.json").exists()
    checkpoint = PACKAGED_DEMO if packaged else workspace.checkpoint("demo", DEMO)
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    with stip(workspace.bundles(checkpoint)) as ours, mlx_lm(checkpoint) as baseline:
        runs = Runs(ours, baseline, vocab_size, prompt=16, new=200, repeats=repeats)
    model = "the demo model" if packaged else "a random model of the demo's size"
    yield runs.decode_ratio("demo", f"decode with {model}, same type and BLAS", 0.7)


class Runs:
    """Both sides' timings of the same generation, taken in turns."""

    def __init__(
        self, ours: Side, baseline: Side, vocab_size: int, *, prompt: int, new: int, repeats: int
    ) -> None:
        token_ids = np.random.default_rng(0).integers(0, vocab_size, prompt).tolist()
        self._names = (ours.name, baseline.name)
        sides = (ours, baseline)
        for side in sides:
            side.generate(token_ids, new)
        self._pairs = [
            tuple(side.generate(token_ids, new) for side in sides) for _ in range(repeats)
        ]

    def decode_ratio(self, scenario: str, name: str, target: float) -> Figure:
        """The ratio of milliseconds a token."""
        return self._ratio(scenario, name, target, "ms/token", lambda t: t.per_token * 1e3)

    def prefill_ratio(self, scenario: str, name: str, target: float) -> Figure:
        """The ratio of seconds until the first token."""
        return self._ratio(scenario, name, target, "s", lambda t: t.first_token)

    def _ratio(
        self, scenario: str, name: str, target: float, unit: str, of: Callable[[Timing], float]
    ) -> Figure:
        ours, baseline = (
            Series(side, unit, [of(pair[index]) for pair in self._pairs])
            for index, side in enumerate(self._names)
        )
        ratios = [b / a for a, b in zip(ours.values, baseline.values, strict=True)]
        return Figure(
            scenario=scenario,
            name=name,
            value=baseline.median / ours.median,
            unit="x",
            target=Target(">=", target),
            ours=ours,
            baseline=baseline,
            spread=(min(ratios), max(ratios)),
            note=self._agreement() + ("" if ours.steady and baseline.steady else UNSTEADY),
        )

    def _agreement(self) -> str:
        """Whether the two sides said the same."""
        ours, baseline = (timing.token_ids for timing in self._pairs[0])
        return f"{agreeing(ours, baseline)} of {len(ours)} tokens agree from the first on"
