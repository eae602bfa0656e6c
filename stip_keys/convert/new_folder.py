"""Folders that appear complete or not at all."""

from __future__ import annotations

import errno
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stip_model.errors import BundleError


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder next to `output` that is renamed to it on success, and removed otherwise.

    Raises BundleError where `output` exists already, cannot be written, or has no space left.
    """
    try:
        if output.exists():
            raise BundleError(f"{output} already exists", hint="choose another folder with -o")
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        folder.chmod(0o755)
        with _terminate_raises():
            try:
                yield folder
                folder.rename(output)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BundleError(
                f"no space left for {output}",
                hint="the two bundles take about as much space as the checkpoint; nothing was kept",
            ) from error
        raise BundleError(f"cannot write {output}: {error.strerror or error}") from error


@contextmanager
def _terminate_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the temporary folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    previous = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
