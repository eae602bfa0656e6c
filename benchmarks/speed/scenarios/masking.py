"""Scenarios about what masks cost: a rotation beside permutations, new keys beside a conversion,
and how long the audit takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from benchmarks.speed.compared_programs import stip
from benchmarks.speed.figures import Figure, Series, Target
from benchmarks.speed.models import QWEN_0_5B
from benchmarks.speed.scenarios.decode_and_prefill import PACKAGED_DEMO, Runs
from benchmarks.speed.workspace import Workspace


def rotation(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """Decoding one stream at 0.5B from a rotated bundle, beside a permuted one."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    rotated = workspace.bundles(checkpoint, "--scheme", "rotation", "--base-seed", "7")
    permuted = workspace.bundles(checkpoint)
    with stip(rotated) as ours, stip(permuted) as baseline:
        runs = Runs(
            replace(ours, name="rotation"),
            replace(baseline, name="permutation"),
            QWEN_0_5B.vocab_size,
            prompt=16,
            new=32,
            repeats=repeats,
        )
    yield runs.decode_ratio("rotation", "decode at 0.5B, rotation beside permutation", 0.97)


def rekey(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """`stip-keys rekey` of 0.5B bundles, beside the `stip-keys convert` that made them."""
    checkpoint = workspace.checkpoint("0.5b", QWEN_0_5B)
    rekeying, converting = [], []
    for number in range(repeats):
        with workspace.folder(f"keys-{number}") as folder:
            old, new = folder / "old.key", folder / "new.key"
            for key in (old, new):
                _seconds("new", "-o", key)
            made, moved = folder / "made", folder / "moved"
            converting.append(_seconds("convert", checkpoint, "--key", old, "-o", made))
            rekeying.append(_seconds("rekey", made, "--key", old, "--new-key", new, "-o", moved))
    ours = Series("stip-keys rekey", "s", rekeying)
    baseline = Series("stip-keys convert", "s", converting)
    yield Figure(
        scenario="rekey",
        name="new keys for 0.5B bundles, speed beside convert's",
        value=baseline.median / ours.median,
        unit="x",
        target=Target(">=", 0.5),
        ours=ours,
        baseline=baseline,
    )


def audit(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """`stip-keys audit` of the demo model with its default settings."""
    bundles = workspace.bundles(PACKAGED_DEMO)
    times = [_seconds("audit", bundles, "--checkpoint", PACKAGED_DEMO) for _ in range(repeats)]
    series = Series("stip-keys audit", "s", times)
    yield Figure(
        scenario="audit",
        name="audit of the demo model",
        value=series.median,
        unit="s",
        target=Target("<", 120),
        ours=series,
    )


def _seconds(*arguments: str | Path) -> float:
    """Run stip-keys to its end; its wall time. Raises CalledProcessError."""
    command = [sys.executable, "-m", "stip_keys", *map(str, arguments)]
    started = perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return perf_counter() - started
