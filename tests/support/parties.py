"""The parties as tests use them: conversions through the command line, servers as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.waiting import LONG_PATIENCE

BASE_SEED = 7


def run_tool(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` to its end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LONG_PATIENCE, **options
    )


def convert(checkpoint: Path, output: Path, *arguments: object) -> Path:
    """Convert a checkpoint with a reproducible key unless the arguments say otherwise."""
    key = () if {"--key", "--scheme"} & set(arguments) else ("--base-seed", BASE_SEED)
    done = run_tool("stip_keys", "convert", checkpoint, "-o", output, *key, *arguments)
    assert done.returncode == 0, done.stderr
    return output


def make_model(folder: Path, checkpoint: RandomCheckpoint, *arguments: object) -> Path:
    """Write a random checkpoint to folder/checkpoint and its bundles to folder/bundles."""
    return convert(checkpoint.write(folder / "checkpoint"), folder / "bundles", *arguments)


@contextmanager
def server_process(
    bundle: Path, *arguments: object, program: Sequence[str] = ("stip_server",), **options: Any
) -> Iterator[Server]:
    """A server on a free port; killed afterwards if it still runs.

    Its stderr is a pipe, which holds it up when full: give `stderr` a file where it logs much.
    """
    command = [sys.executable, "-m", *program, "--model", str(bundle), "--port", "0", "--cpu"]
    command += map(str, arguments)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen(command, **options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise AssertionError(f"the server did not start: {process.communicate()[1]}")
        yield Server(process, line.removeprefix("listening on ").strip())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Server:
    """A running server process."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address
