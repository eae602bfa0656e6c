"""The server's resident memory over time, and whether it grew."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from time import monotonic
from typing import Any

import numpy as np
import psutil

MIB = 2**20
INTERVAL = 5.0
# What comes before is warm-up: buffers are allocated when they are first needed.
WARM_UP = 0.2
# The straight line through the samples may rise by this much until the end ...
MAX_GROWTH = 24.0
# ... and the samples differ by this much: what the sessions' keys and values, and buffers of
# prompts, take at some times and not at others.
MAX_SWING = 128.0


@dataclass
class Memory:
    """Samples of (seconds, MiB)."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    def watch(self, pid: int, stop: Event) -> None:
        """Take samples until told to stop or until the process has gone."""
        started = monotonic()
        process = psutil.Process(pid)
        while not stop.is_set():
            try:
                rss = process.memory_info().rss / MIB
            except psutil.NoSuchProcess:
                return
            self.samples.append((monotonic() - started, rss))
            stop.wait(INTERVAL)

    @property
    def judged(self) -> list[tuple[float, float]]:
        """The samples after the warm-up."""
        end = self.samples[-1][0]
        return [(at, rss) for at, rss in self.samples if at >= WARM_UP * end]

    @property
    def growth(self) -> float:
        """By how many MiB the line that fits best rises from the warm-up to the end."""
        seconds, sizes = zip(*self.judged, strict=True)
        slope = np.polyfit(seconds, sizes, 1)[0]
        return float(slope * (seconds[-1] - seconds[0]))

    @property
    def swing(self) -> float:
        """The largest sample after the warm-up less the smallest."""
        sizes = [rss for _, rss in self.judged]
        return max(sizes) - min(sizes)

    def failures(self) -> list[str]:
        """What is beyond the bounds."""
        if len(self.judged) < 3:
            return [f"{len(self.judged)} samples of memory tell nothing: run it for longer"]
        found = []
        if self.growth > MAX_GROWTH:
            found.append(f"memory grew by {self.growth:.0f} MiB, more than {MAX_GROWTH:g}")
        if self.swing > MAX_SWING:
            found.append(f"memory swung by {self.swing:.0f} MiB, more than {MAX_SWING:g}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, for the results."""
        return {
            "samples": [[round(at, 1), round(rss, 2)] for at, rss in self.samples],
            "growth_mib": self.growth,
            "max_growth_mib": MAX_GROWTH,
            "swing_mib": self.swing,
            "max_swing_mib": MAX_SWING,
        }
