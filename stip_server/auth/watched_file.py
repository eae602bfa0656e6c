"""Reads small files, and detects when they change: tokens, certificates, keys."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from stip_server.errors import StartError

log = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024


class UnreadableError(StartError):
    """The file could not be read now. Its content may be good."""


# Identifies a version of a file. None means that there is no file.
Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """The version of a file. Follows links.

    It includes the inode's change time: `chmod` can make a file readable, and `cp --preserve` can
    keep an old modification time.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read(path: Path, what: str, *, secret: bool) -> bytes:
    """Read a whole file. Errors call it `what`. Raises StartError, or its UnreadableError.

    Logs a warning if the file is `secret` and other users may read or change it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
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
