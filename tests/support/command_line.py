"""Assertions about refusals of command line tools."""

from __future__ import annotations

import subprocess
from pathlib import Path


def assert_refused(
    done: subprocess.CompletedProcess[str], *says: str, status: int = 1, hint: str | None = None
) -> None:
    """The tool ended with the status, one `error:` line that says all of `says`, no traceback."""
    assert_no_traceback(done.stderr)
    assert done.returncode == status, done.stderr
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stderr
    for text in says:
        assert text in errors[0], done.stderr
    if hint is not None:
        hints = [line for line in done.stderr.splitlines() if ": hint: " in line]
        assert any(hint in line for line in hints), done.stderr


def assert_no_traceback(stderr: str) -> None:
    assert "Traceback" not in stderr, stderr
    assert "Exception ignored" not in stderr, stderr


def listing(folder: Path) -> list[str]:
    """Everything below a folder, hidden entries as well."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
