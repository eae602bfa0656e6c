"""One measured run of `stip-keys convert` on a checkpoint of Qwen2.5-3B's dimensions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.speed.models import QWEN_3B

GIB = 2**30
NEEDED_BYTES = 25 * GIB
# getrusage(2): kilobytes, on macOS bytes
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class NoSpace(Exception):
    """The disk has no room for the checkpoint, its copy and its conversion."""


@dataclass(frozen=True)
class BigConversion:
    """The bundles and what making them took.

    peak_bytes is the kernel's record of the child's largest resident memory, which counts mapped
    pages of files as well.
    """

    bundles: Path
    copy_seconds: float
    convert_seconds: float
    peak_bytes: int

    @classmethod
    def run(cls, folder: Path) -> BigConversion:
        """Write the checkpoint, copy it, delete the copy, convert it, delete the checkpoint.

        Nothing is synced or dropped from the page cache in between: both read what has just been
        written, and both return when the kernel has taken their output. Raises NoSpace.
        """
        free = shutil.disk_usage(folder).free
        if free < NEEDED_BYTES:
            raise NoSpace(f"{free / GIB:.1f} GiB of disk are free, {NEEDED_BYTES / GIB:.0f} needed")
        checkpoint = QWEN_3B.write(folder / "3b-checkpoint")
        copy, bundles = folder / "3b-copy", folder / "3b-bundles"
        copy_seconds, _ = _run_measured("cp", "-r", str(checkpoint), str(copy))
        shutil.rmtree(copy)
        convert_seconds, peak_bytes = _run_measured(
            *(sys.executable, "-m", "stip_keys", "convert", str(checkpoint), "-o", str(bundles))
        )
        shutil.rmtree(checkpoint)
        return cls(bundles, copy_seconds, convert_seconds, peak_bytes)


def _run_measured(*command: str) -> tuple[float, int]:
    """Run a command to its end: wall seconds, and the peak of its resident memory in bytes.

    Raises CalledProcessError.
    """
    started = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # wait4 alone gives this child's own usage; getrusage sums up all children there were
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * MAXRSS_UNIT
