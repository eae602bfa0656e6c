"""An interrupted conversion leaves nothing that looks complete."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.support.command_line import assert_no_traceback, assert_refused, listing
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import run_tool
from tests.support.waiting import PATIENCE

# The first file of a conversion, one in its middle and its last large one.
STAGES = ("server/layer_00.safetensors", "server/layer_11.safetensors", "client/embeddings")


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that its conversion can be caught at work."""
    return RandomCheckpoint(
        hidden_size=240,
        intermediate_size=1000,
        num_hidden_layers=20,
        vocab_size=50_000,
        dtype="bfloat16",
    ).write(tmp_path_factory.mktemp("large") / "checkpoint")


def interrupt(checkpoint: Path, out: Path, stage: str, signum: int) -> tuple[int, str]:
    """Convert, and send a signal as soon as the stage's file is there; status and stderr."""
    command = [sys.executable, "-m", "stip_keys", "convert", str(checkpoint), "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = monotonic() + PATIENCE
        while not list(out.parent.glob(f".out.partial-*/{stage}*")):
            assert process.poll() is None, "the conversion was over before it was interrupted"
            assert monotonic() < deadline
            sleep(0.0005)
        process.send_signal(signum)
        stderr = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, stderr


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_conversion_leaves_nothing(
    signum: int, status: int, stage: str, large_checkpoint: Path, tmp_path: Path
) -> None:
    found, stderr = interrupt(large_checkpoint, tmp_path / "out", stage, signum)
    assert listing(tmp_path) == []
    assert found == status
    assert_no_traceback(stderr)


def test_a_killed_conversion_leaves_nothing_that_looks_complete(
    large_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found, _ = interrupt(large_checkpoint, out, STAGES[1], signal.SIGKILL)
    assert found == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.partial-")
    assert not list(left.rglob("manifest.json"))
    assert (left / "master.key").stat().st_mode & 0o077 == 0
    assert_refused(run_tool("stip_keys", "inspect", out), "out")
    assert_refused(run_tool("stip_keys", "inspect", left), "partial")

    again = run_tool("stip_keys", "convert", large_checkpoint, "-o", out)
    assert again.returncode == 0, again.stderr
    assert run_tool("stip_keys", "inspect", out).returncode == 0


def with_file_limit(size: int) -> Callable[[], None]:
    """Runs in the child: writing beyond `size` bytes of a file fails, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [0, 100, 1000, 50_000, 1_500_000], ids=lambda size: f"{size}B")
def test_a_full_disk_leaves_nothing_and_is_said_so(
    size: int, large_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_tool(
        "stip_keys", "convert", large_checkpoint, "-o", out, preexec_fn=with_file_limit(size)
    )
    assert_refused(done, "space left" if size > 1000 else "")
    assert listing(tmp_path) == []
    assert done.stdout == ""


def test_a_full_disk_leaves_no_key_file(tmp_path: Path) -> None:
    done = run_tool("stip_keys", "new", "-o", tmp_path / "a.key", preexec_fn=with_file_limit(10))
    assert_refused(done, "a.key")
    assert listing(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_leaves_nothing_and_is_said_so(
    large_checkpoint: Path, small_disk: Path
) -> None:
    done = run_tool("stip_keys", "convert", large_checkpoint, "-o", small_disk / "out")
    assert_refused(done, "no space left", hint="as much space as the checkpoint")
    assert listing(small_disk) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(
    talking_checkpoint: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    done = run_tool("stip_keys", "convert", talking_checkpoint, "-o", tmp_path / "out")
    tmp_path.chmod(0o700)
    assert_refused(done, "cannot write", "Permission denied")


def test_an_output_below_a_file_is_an_error(talking_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    done = run_tool("stip_keys", "convert", talking_checkpoint, "-o", tmp_path / "file" / "out")
    assert_refused(done, "cannot write")
    assert (tmp_path / "file").read_text() == "precious"


def test_an_output_with_too_long_a_name_is_an_error(
    talking_checkpoint: Path, tmp_path: Path
) -> None:
    done = run_tool("stip_keys", "convert", talking_checkpoint, "-o", tmp_path / ("x" * 300))
    assert_refused(done, "too long")
    assert listing(tmp_path) == []
