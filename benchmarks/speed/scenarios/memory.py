"""Scenarios about memory: converting a 3B model, and opening its client bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from benchmarks.speed.figures import Figure, Series, Skipped, Target
from benchmarks.speed.scenarios.conversion import GIB, NoSpace
from benchmarks.speed.workspace import Workspace

MB = 10**6


def convert(workspace: Workspace, _: int) -> Iterator[Figure | Skipped]:
    """`stip-keys convert` of 6.2 GB: its peak of memory, and its time beside that of `cp -r`.

    Once each, `cp` first: a conversion takes minutes on some disks.
    """
    try:
        done = workspace.big_conversion
    except NoSpace as error:
        yield Skipped("convert", "conversion of a 3B model", str(error))
        return
    peak = done.peak_bytes / GIB
    yield Figure(
        scenario="convert",
        name="conversion of a 3B model: peak of resident memory",
        value=peak,
        unit="GiB",
        target=Target("<", 1.5),
        ours=Series("stip-keys convert", "GiB", [peak]),
    )
    yield Figure(
        scenario="convert",
        name="conversion of a 3B model: wall time (target: 4 x cp + 20 s)",
        value=done.convert_seconds,
        unit="s",
        target=Target("<=", round(4 * done.copy_seconds + 20, 1)),
        ours=Series("stip-keys convert", "s", [done.convert_seconds]),
        baseline=Series("cp -r", "s", [done.copy_seconds]),
    )


def client_memory(workspace: Workspace, repeats: int) -> Iterator[Figure | Skipped]:
    """Growth of a process that opens a 3B model's client bundle and embeds 20 tokens."""
    try:
        bundle = workspace.big_conversion.bundles / "client"
    except NoSpace as error:
        yield Skipped("client-memory", "client of a 3B model", str(error))
        return
    command = [sys.executable, "-m", "benchmarks.speed.workers.client_memory_worker", str(bundle)]
    answers = []
    for _ in range(repeats):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        answers.append(json.loads(done.stdout))
    growth = [answer["growth_bytes"] / MB for answer in answers]
    series = Series("ClientBundle and 20 tokens", "MB", growth)
    private = [answer["private_bytes"] for answer in answers]
    table = (bundle / "embeddings.safetensors").stat().st_size / MB
    yield Figure(
        scenario="client-memory",
        name=f"client of a 3B model: memory for its {table:.0f} MB table",
        value=series.median,
        unit="MB",
        target=Target("<", 50),
        ours=series,
        note=""
        if None in private
        else f"{median(private) / MB:.2g} MB of it private, the rest cached pages of the file",
    )
