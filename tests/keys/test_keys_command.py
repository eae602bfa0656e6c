"""The stip-keys command line: output, files and errors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.command_line import assert_refused
from tests.support.models.damage import edit_json
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import convert, run_tool


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: RandomCheckpoint) -> Path:
    return tiny_checkpoint.write(tmp_path / "checkpoint")


def test_new_writes_the_secret_to_the_file_and_the_fingerprint_to_the_terminal(
    tmp_path: Path,
) -> None:
    done = run_tool("stip_keys", "new", "-o", tmp_path / "master.key")
    secret = json.loads((tmp_path / "master.key").read_text())["key"]
    assert done.returncode == 0
    assert "fingerprint" in done.stdout
    assert secret not in done.stdout + done.stderr
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600


def test_a_base_seed_makes_the_same_key_and_says_that_it_is_no_secret(tmp_path: Path) -> None:
    made = [run_tool("stip_keys", "new", "-o", tmp_path / name, "--base-seed", 5) for name in "ab"]
    assert made[0].stdout.splitlines()[1] == made[1].stdout.splitlines()[1]
    assert all("is not a secret" in each.stderr for each in made)
    assert json.loads((tmp_path / "a").read_text())["secret"] is False
    used = run_tool("stip_keys", "inspect", tmp_path / "a")
    assert "is not a secret" in used.stderr
    random = run_tool("stip_keys", "new", "-o", tmp_path / "c")
    assert "not a secret" not in random.stderr


def test_convert_writes_two_bundles_and_only_the_clients_is_private(
    tmp_path: Path, checkpoint: Path
) -> None:
    run_tool("stip_keys", "new", "-o", tmp_path / "master.key")
    done = run_tool(
        "stip_keys", "convert", checkpoint, "-o", tmp_path / "out", "--key", tmp_path / "master.key"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["client", "server"]
    assert stat.S_IMODE((tmp_path / "out" / "client" / "client.key").stat().st_mode) == 0o600
    assert done.stderr == ""


def test_convert_without_a_key_makes_one_and_keeps_it(tmp_path: Path, checkpoint: Path) -> None:
    done = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "master.key" in done.stdout
    again = run_tool(
        "stip_keys",
        "convert",
        checkpoint,
        *("-o", tmp_path / "again", "--key", tmp_path / "out" / "master.key"),
    )
    assert again.returncode == 0, again.stderr
    for name in ("server/manifest.json", "client/client.key"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_two_fresh_keys_give_different_bundles(tmp_path: Path, checkpoint: Path) -> None:
    for name in "ab":
        run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / name)
    layers = [(tmp_path / name / "server/layer_00.safetensors").read_bytes() for name in "ab"]
    assert layers[0] != layers[1]


def test_dtype_casts_every_weight(tmp_path: Path, checkpoint: Path) -> None:
    run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out", "--dtype", "bfloat16")
    described = run_tool("stip_keys", "inspect", tmp_path / "out", "--json")
    assert {each["dtype"] for each in json.loads(described.stdout)} == {"bfloat16"}


def test_inspect_describes_keys_and_bundles_without_secrets(tiny_bundles: Path) -> None:
    client_key = tiny_bundles / "client" / "client.key"
    secrets = list(json.loads(client_key.read_text())["subkeys"].values())
    for path in (tiny_bundles, tiny_bundles / "server", client_key, tiny_bundles / "master.key"):
        done = run_tool("stip_keys", "inspect", path)
        assert done.returncode == 0, done.stderr
        assert "key_id" in done.stdout or "fingerprint" in done.stdout
        assert not any(secret in done.stdout for secret in secrets)


def test_inspect_shows_the_head_and_what_the_clients_key_opens(
    tmp_path: Path, checkpoint: Path
) -> None:
    for scheme, head, subkeys in (
        ("permutation", "server", [6, 0, 0]),
        ("permutation", "client", [6, 6, 0]),
        ("rotation", "sealed", [1, 0, 1]),
    ):
        output = tmp_path / f"{scheme}-{head}"
        options = ("--scheme", scheme, "--head", head, "--base-seed", 1)
        made = run_tool("stip_keys", "convert", checkpoint, "-o", output, *options)
        assert made.returncode == 0, made.stderr
        described = json.loads(run_tool("stip_keys", "inspect", output, "--json").stdout)
        assert [(each["scheme"], each["head"]) for each in described] == [(scheme, head)] * 2
        key = run_tool("stip_keys", "inspect", output / "client" / "client.key", "--json")
        assert list(json.loads(key.stdout)[0]["subkeys"].values()) == subkeys


@pytest.mark.parametrize(
    ("field", "value", "known"),
    [
        ("scheme", "SCHEME_LATTICE", "permutation, rotation"),
        ("scheme", 9, "permutation, rotation"),
        ("head", "HEAD_NOWHERE", "client, sealed"),
        ("head", 9, "client, sealed"),
    ],
)
def test_inspect_refuses_what_it_does_not_know(
    field: str, value: object, known: str, tmp_path: Path, tiny_bundles: Path
) -> None:
    bundle = shutil.copytree(tiny_bundles / "server", tmp_path / "server")
    edit_json(bundle / "manifest.json", **{field: value})
    done = run_tool("stip_keys", "inspect", bundle)
    assert done.returncode == 1 and str(value) in done.stderr and known in done.stderr


def test_inspect_finds_an_altered_file(tmp_path: Path, checkpoint: Path) -> None:
    run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out")
    table = tmp_path / "out" / "client" / "embeddings.safetensors"
    content = bytearray(table.read_bytes())
    content[-1] ^= 1
    table.write_bytes(content)
    done = run_tool("stip_keys", "inspect", tmp_path / "out")
    assert done.returncode == 1
    assert "embeddings.safetensors is altered" in done.stderr


def test_scheme_none_says_loudly_that_it_hides_nothing(tmp_path: Path, checkpoint: Path) -> None:
    done = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out", "--scheme", "none")
    assert done.returncode == 0, done.stderr
    inspected = run_tool("stip_keys", "inspect", tmp_path / "out")
    for each in (done, inspected):
        assert "hides nothing" in each.stderr


def test_a_progress_bar_on_a_terminal_and_none_in_a_pipe(tmp_path: Path, checkpoint: Path) -> None:
    piped = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "piped")
    assert "converting" not in piped.stdout + piped.stderr

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "stip_keys", "convert", str(checkpoint)]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "shown")], stdout=subprocess.DEVNULL, stderr=slave
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # Linux reports the closed terminal so
            break
        if not block:
            break
        shown += block
    os.close(master)
    assert process.wait(60) == 0
    assert b"converting" in shown


def test_blocks_of_one_element_give_a_warning(
    tmp_path: Path, checkpoint: Path, tiny_checkpoint: RandomCheckpoint
) -> None:
    options = ("--blocks", tiny_checkpoint.hidden_size)
    done = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert "permute nothing" in done.stderr


def test_rekey_makes_the_bundles_of_the_new_key(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        assert run_tool("stip_keys", "new", "-o", tmp_path / f"{name}.key").returncode == 0
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    convert(checkpoint, tmp_path / "bundles", "--key", old)
    convert(checkpoint, tmp_path / "afresh", "--key", new)
    rekey = ("stip_keys", "rekey", tmp_path / "bundles", "--key", old, "--new-key", new)
    done = run_tool(*rekey, "-o", tmp_path / "rekeyed")
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "afresh").rglob("*"):
        if path.is_file():
            moved = tmp_path / "rekeyed" / path.relative_to(tmp_path / "afresh")
            assert moved.read_bytes() == path.read_bytes()
    # never over what is there
    assert_refused(run_tool(*rekey, "-o", tmp_path / "rekeyed"), "already exists", hint="-o")


def test_rekey_makes_a_key_where_none_is_given(checkpoint: Path, tmp_path: Path) -> None:
    assert run_tool("stip_keys", "new", "-o", tmp_path / "old.key").returncode == 0
    convert(checkpoint, tmp_path / "bundles", "--key", tmp_path / "old.key")
    done = run_tool(
        *("stip_keys", "rekey", tmp_path / "bundles", "--key", tmp_path / "old.key"),
        *("-o", tmp_path / "rekeyed"),
    )
    assert done.returncode == 0, done.stderr
    assert "secret: give it to nobody" in done.stdout
    again = run_tool(
        *("stip_keys", "rekey", tmp_path / "rekeyed", "--key", tmp_path / "rekeyed/master.key"),
        *("--new-key", tmp_path / "old.key", "-o", tmp_path / "back"),
    )
    assert again.returncode == 0, again.stderr
    layer = "server/layer_00.safetensors"
    assert (tmp_path / "back" / layer).read_bytes() == (tmp_path / "bundles" / layer).read_bytes()
