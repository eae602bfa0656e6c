"""Small files that are read at start and again when they change: tokens, certificates, keys."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from stip_server.errors import StartError

log = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024


class UnreadableError(StartError):
    """The file could not be read this time: what is in it may be good."""


# What tells one version of a file from the next; None where there is no file.
Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """The version of a file, links followed.

    The time of the last change of its inode counts too: `chmod` can make a file readable, and
    `cp --preserve` can bring an old time of modification.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read(path: Path, what: str, *, secret: bool) -> bytes:
    """All of a file; `what` it is stands in errors. Raises StartError, UnreadableError among them.

    Logs a warning when `secret` and others than its owner may read or change it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise StartError(f"cannot read the {what} {path}: not a regular file")
        content = path.read_bytes() if status.st_size <= MAX_BYTES else None
    except OSError as error:
        raise UnreadableError(f"cannot read the {what} {path}: {error.strerror}") from error
    if content is None:
        raise StartError(f"the {what} {path} has {status.st_size} bytes; at most {MAX_BYTES}")
    mode = stat.S_IMODE(status.st_mode)
    if secret and os.name == "posix" and mode & 0o077:
        log.warning(
            "the %s %s can be read by others (mode %04o); run: chmod 600 %s", what, path, mode, path
        )
    return content
