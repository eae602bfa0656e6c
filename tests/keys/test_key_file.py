"""Key files are created exclusively with mode 0600, and errors do not show their content."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stip_keys.masks.errors import KeyFileError, KeyFilePermissionWarning
from stip_keys.masks.key_file import (
    read_client_key,
    read_master_key,
    write_client_key,
    write_master_key,
)
from stip_keys.masks.keys import ClientKey, MasterKey
from tests.support.models.damage import edit_json

KEY = MasterKey.from_base_seed(11)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.key"


def test_both_kinds_are_read_back(tmp_path: Path) -> None:
    client = KEY.client_key(24, 4)
    write_master_key(tmp_path / "master.key", KEY)
    write_client_key(tmp_path / "client.key", client)
    assert read_master_key(tmp_path / "master.key") == KEY
    assert read_client_key(tmp_path / "client.key") == client


def test_files_are_created_with_mode_0600_whatever_the_umask(path: Path) -> None:
    previous = os.umask(0)
    try:
        write_master_key(path, KEY)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(KeyFileError, match="already exists"):
        write_master_key(path, KEY)
    assert path.read_text() == "precious"


def test_a_link_is_not_followed(tmp_path: Path, path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        write_master_key(path, KEY)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_others_can_read_is_warned_about(path: Path) -> None:
    write_master_key(path, KEY)
    path.chmod(0o644)
    with pytest.warns(KeyFilePermissionWarning, match="0644"):
        assert read_master_key(path) == KEY


def test_a_new_key_differs_from_every_other() -> None:
    assert MasterKey.generate() != MasterKey.generate()
    assert MasterKey.from_base_seed(1) == MasterKey.from_base_seed(1)
    assert MasterKey.from_base_seed(1) != MasterKey.from_base_seed(2)


def test_the_client_file_does_not_hold_the_master_key(path: Path) -> None:
    write_client_key(path, KEY.client_key(24, 4))
    assert KEY.secret.hex() not in path.read_text()


def test_no_repr_or_error_shows_a_secret(path: Path) -> None:
    client = KEY.client_key(24, 4)
    shown = repr(KEY) + repr(client) + str(KEY) + str(client)
    write_master_key(path, KEY)
    content = json.loads(path.read_text()) | {"key": KEY.secret.hex()[:-2]}
    path.write_text(json.dumps(content))
    with pytest.raises(KeyFileError) as error:
        read_master_key(path)
    shown += str(error.value) + repr(error.value)
    for secret in (KEY.secret, *client.subkeys):
        assert secret.hex()[:16] not in shown
        assert repr(secret)[2:-1] not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something else"},
        {"version": 2},
        {"subkeys": {}},
        {"subkeys": {"residual/0/block/0": "00"}},
        {"subkeys": {"residual/1/block/0": "00" * 32}},
        {"subkeys": None},
        {"hidden_size": 25},
        {"hidden_size": "many"},
        {"scheme": "none"},
        {"scheme": "rot13"},
        {"key_id": "0" * 32},
    ],
    ids=str,
)
def test_a_damaged_client_key_is_refused(path: Path, change: dict[str, object]) -> None:
    write_client_key(path, KEY.client_key(24, 4))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KeyFileError, match=str(path)):
        read_client_key(path)


@pytest.mark.parametrize("write", [str.upper, lambda digits: f"{digits[:2]} {digits[2:]}"])
def test_other_digits_than_lower_case_ones_are_damage(
    path: Path, tmp_path: Path, write: Callable[[str], str]
) -> None:
    """They stand for the same bytes, and would give one key many files."""
    write_master_key(path, KEY)
    key = json.loads(path.read_text())["key"]
    edit_json(path, key=write(key))
    with pytest.raises(KeyFileError, match="32 bytes in lower-case hexadecimal"):
        read_master_key(path)
    client = tmp_path / "client.key"
    write_client_key(client, KEY.client_key(24, 4))
    subkeys = json.loads(client.read_text())["subkeys"]
    edit_json(client, subkeys={label: write(subkey) for label, subkey in subkeys.items()})
    with pytest.raises(KeyFileError, match="malformed"):
        read_client_key(client)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{" * 100])
def test_a_file_that_is_no_key_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="not a key file"):
        read_master_key(path)


def test_a_client_key_is_no_master_key(path: Path) -> None:
    write_client_key(path, KEY.client_key(24, 4))
    with pytest.raises(KeyFileError, match="stip-client-key"):
        read_master_key(path)


def test_key_ids_tell_keys_and_uses_apart() -> None:
    ids = {
        KEY.client_key(24, 4).key_id,
        KEY.client_key(24, 6).key_id,
        KEY.client_key(48, 4).key_id,
        MasterKey.from_base_seed(12).client_key(24, 4).key_id,
        ClientKey.identity(24).key_id,
    }
    assert len(ids) == 5
