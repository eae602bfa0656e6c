"""A warning about secret files that users other than the owner can read."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from stip_keys.masks.errors import KeyFilePermissionWarning


def warn_if_others_can_read(path: Path, mode: int) -> None:
    """Warn with KeyFilePermissionWarning; `mode` is the open file's st_mode."""
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        warnings.warn(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}",
            KeyFilePermissionWarning,
            stacklevel=3,
        )
