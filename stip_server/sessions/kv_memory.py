"""The value of --kv-memory: how much memory the keys and values of all sessions may take.

Knows sizes, not arrays. The engine measures the free memory of its device.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from stip_server.errors import StartError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:(%)|([KMGT]?)i?B?)", re.IGNORECASE)
# cgroup v2, then v1: (limit, use)
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class MemoryAmount:
    """A number of bytes, or a fraction of the free memory."""

    size: int | None = None
    fraction: float | None = None

    @staticmethod
    def parse(text: str) -> MemoryAmount:
        """Parse "512MiB", "8G" (powers of 1024) or "50%". Raises ValueError."""
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is neither a size like 8GiB nor a percentage like 50%")
        number = float(match[1])
        if match[2]:
            if not 0 < number <= 100:
                raise ValueError(f"{text!r} is not between 0% and 100%")
            return MemoryAmount(fraction=number / 100)
        number *= _UNITS[match[3].upper()]
        if number >= 2**63:
            raise ValueError(f"{text!r} is more than any machine has")
        size = int(number)
        if size < 1:
            raise ValueError(f"{text!r} is no memory at all")
        return MemoryAmount(size=size)

    def __str__(self) -> str:
        return f"{self.fraction:.0%}" if self.size is None else readable(self.size)

    def of(self, free: int) -> int:
        """The amount in bytes, of `free` bytes. Raises StartError if it is larger than `free`."""
        if self.size is None:
            return int(free * (self.fraction or 0.0))
        if self.size > free:
            raise StartError(
                f"--kv-memory {readable(self.size)} is more than the {readable(free)} that "
                "remain on the device next to the weights"
            )
        return self.size


def host_memory_left() -> int:
    """Bytes of the machine's memory, or its container's, that this process may still use."""
    import psutil  # an extra: stip-server --help works without it

    free: int = psutil.virtual_memory().available
    if sys.platform == "linux":
        for limit_file, used_file in _CGROUP_FILES:
            try:
                limit, used = Path(limit_file).read_text(), Path(used_file).read_text()
            except OSError:
                continue  # another version of cgroups, or none
            if limit.strip().isdecimal():
                free = min(free, max(0, int(limit) - int(used)))
    return free


def readable(size: int) -> str:
    """Format a number of bytes: "512.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024  # type: ignore[assignment]
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
