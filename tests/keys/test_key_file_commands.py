"""Key files on the command line: never overwritten or printed, and a warning about their mode."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import assert_refused, listing
from tests.support.parties import Server, convert, run_tool

SECRET = re.compile(r"[0-9a-f]{64}")


@pytest.fixture
def master_key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "master.key"
    path.parent.mkdir()
    assert run_tool("stip_keys", "new", "-o", path).returncode == 0
    return path


@pytest.mark.parametrize("kind", ["file", "dangling link", "folder"])
def test_an_existing_key_file_is_never_overwritten(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = listing(tmp_path)
    done = run_tool("stip_keys", "new", "-o", path)
    assert_refused(done, "master.key", "already exists", hint="never overwritten")
    assert listing(tmp_path) == before
    if kind == "file":
        assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["empty folder", "bundles", "file"])
def test_an_existing_output_is_never_touched(
    kind: str, talking_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
    if kind == "bundles":
        (out / "server").mkdir()
        (out / "server" / "manifest.json").write_text("{}")
    before = listing(tmp_path)
    done = run_tool("stip_keys", "convert", talking_checkpoint, "-o", out)
    assert_refused(done, "out already exists", hint="-o")
    assert listing(tmp_path) == before


def test_a_key_that_others_can_read_is_used_with_a_warning(
    talking_checkpoint: Path, master_key: Path, tmp_path: Path
) -> None:
    master_key.chmod(0o644)
    done = run_tool(
        "stip_keys", "convert", talking_checkpoint, "-o", tmp_path / "out", "--key", master_key
    )
    assert done.returncode == 0, done.stderr
    assert "stip-keys: warning: " in done.stderr
    assert "0644" in done.stderr
    assert f"chmod 600 {master_key}" in done.stderr


def test_a_client_key_that_others_can_read_is_used_with_a_warning(
    talking_bundles: Path, strict_server: Server, tmp_path: Path
) -> None:
    bundle = shutil.copytree(talking_bundles / "client", tmp_path / "client")
    (bundle / "client.key").chmod(0o640)
    done = run_tool(
        *("stip_client", "generate", "--server", strict_server.address, "--bundle", bundle),
        *("--prompt", "w5 w6", "--max-new-tokens", 3, "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.count("stip-client: warning: ") == 1
    assert "client.key can be read by others (mode 0640)" in done.stderr


DAMAGED_KEYS = {
    "empty": "",
    "not JSON": "not a key",
    "not an object": "[1]",
    "another format": json.dumps({"format": "stip-client-key", "version": 1, "key": "00" * 32}),
    "another version": json.dumps({"format": "stip-master-key", "version": 2, "key": "00" * 32}),
    "no key": json.dumps({"format": "stip-master-key", "version": 1}),
    "key of no form": json.dumps({"format": "stip-master-key", "version": 1, "key": 5}),
    "short key": json.dumps({"format": "stip-master-key", "version": 1, "key": "ab" * 31}),
    "upper case": json.dumps({"format": "stip-master-key", "version": 1, "key": "AB" * 32}),
    "spaces": json.dumps({"format": "stip-master-key", "version": 1, "key": "ab " * 31 + "ab"}),
    "no hexadecimal": json.dumps({"format": "stip-master-key", "version": 1, "key": "xy" * 32}),
}


@pytest.mark.parametrize("name", DAMAGED_KEYS)
def test_a_damaged_key_is_refused_and_not_shown(
    name: str, talking_checkpoint: Path, tmp_path: Path
) -> None:
    key = tmp_path / "master.key"
    key.write_text(DAMAGED_KEYS[name])
    key.chmod(0o600)
    done = run_tool(
        "stip_keys", "convert", talking_checkpoint, "-o", tmp_path / "out", "--key", key
    )
    assert_refused(done, str(key))
    assert not SECRET.search(done.stderr)
    assert not any(part in done.stderr.lower() for part in ("ab" * 31, "ab ab"))
    assert listing(tmp_path) == ["master.key"]


def test_a_key_that_is_not_there_is_refused(talking_checkpoint: Path, tmp_path: Path) -> None:
    done = run_tool(
        "stip_keys",
        "convert",
        talking_checkpoint,
        "-o",
        tmp_path / "out",
        "--key",
        tmp_path / "no.key",
    )
    assert_refused(done, "no.key", "No such file")
    assert listing(tmp_path) == []


def test_no_secret_is_ever_printed(
    talking_checkpoint: Path, master_key: Path, tmp_path: Path
) -> None:
    secret = json.loads(master_key.read_text())["key"]
    out = convert(talking_checkpoint, tmp_path / "out", "--key", master_key)
    subkeys = json.loads((out / "client" / "client.key").read_text())["subkeys"].values()
    for arguments in (["inspect", out], ["inspect", out, "--json"], ["inspect", master_key]):
        done = run_tool("stip_keys", *arguments)
        assert done.returncode == 0, done.stderr
        for each in (secret, *subkeys):
            assert each not in done.stdout + done.stderr
