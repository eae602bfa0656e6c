"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from stip_model.operations.blas import load_blas

# one-minute load a core above which figures are not worth quoting
BUSY = 0.3


def describe() -> dict[str, Any]:
    """The machine, by the names that the report prints."""
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "os": platform.platform(),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "blas": load_blas().name,
        "load when started": round(os.getloadavg()[0], 2),
    }


def warnings() -> list[str]:
    """What makes the figures doubtful."""
    load = os.getloadavg()[0]
    if load > BUSY * _cores():
        return [f"the machine is busy (load {load:.1f}): ratios may be off by a lot"]
    return []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cpu_model() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
