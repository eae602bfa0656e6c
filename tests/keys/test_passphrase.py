"""Key files wrapped with a passphrase: only it opens them, and errors reveal neither."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stip_keys.inspection import inspect
from stip_keys.masks.errors import (
    KeyFileError,
    KeyFilePermissionWarning,
    KeysError,
    NotSecretWarning,
    PassphraseError,
)
from stip_keys.masks.key_file import read_master_key, write_client_key, write_master_key
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.passphrase import (
    MAX_BYTES,
    Passphrase,
    PassphraseSource,
    new_passphrase,
    read_passphrase,
)
from stip_keys.masks.wrapped_key import Scrypt, wrap
from tests.support.models.damage import edit_json
from tests.support.passphrases import in_file

KEY = MasterKey.from_base_seed(11)
PASSPHRASE = Passphrase(b"correct horse battery staple")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A wrapped key file of the default cost: half a second each time that it is opened."""
    path = tmp_path_factory.mktemp("wrapped") / "master.key"
    write_master_key(path, KEY, passphrase=PASSPHRASE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_bytes()


@pytest.fixture
def path(written: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "master.key"
    path.touch(mode=0o600)
    path.write_bytes(written)
    return path


@pytest.fixture
def never(tmp_path: Path) -> PassphraseSource:
    """A source with nothing to read."""
    return PassphraseSource(tmp_path / "no words")


def test_a_wrapped_key_is_read_back_with_its_passphrase_alone(path: Path) -> None:
    words = path.with_name("words")
    assert read_master_key(path, in_file(words, PASSPHRASE.secret)) == KEY
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        read_master_key(path, in_file(words, PASSPHRASE.secret + b" "))


def test_a_wrapped_file_does_not_hold_the_key(path: Path) -> None:
    assert KEY.secret.hex() not in path.read_text()
    assert "key" not in json.loads(path.read_text())


def test_the_cost_is_what_the_format_names(path: Path) -> None:
    cost = json.loads(path.read_text())["scrypt"]
    assert (cost["n"], cost["r"], cost["p"], len(cost["salt"])) == (2**17, 8, 1, 32)


def test_the_same_key_and_passphrase_make_another_file_each_time() -> None:
    made = [
        wrap(
            KEY.secret,
            PASSPHRASE,
            plain="stip-master-key",
            created="2026-11-23T20:40:00Z",
            is_secret=True,
            fingerprint=KEY.fingerprint,
            scrypt=Scrypt(n=2),
        )
        for _ in range(2)
    ]
    assert made[0].salt != made[1].salt
    assert made[0].nonce != made[1].nonce
    assert made[0].ciphertext != made[1].ciphertext


def test_a_damaged_file_is_refused_before_a_passphrase_is_requested(
    path: Path, never: PassphraseSource
) -> None:
    edit_json(path, fingerprint="0" * 32)
    with pytest.raises(KeyFileError, match="damaged"):
        read_master_key(path, never)
    with pytest.raises(KeyFileError, match="damaged"):
        inspect(path)


def test_a_truncated_file_is_refused(path: Path, never: PassphraseSource) -> None:
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(KeyFileError, match="not a key file"):
        read_master_key(path, never)


def test_a_plain_key_takes_no_passphrase(tmp_path: Path, never: PassphraseSource) -> None:
    write_master_key(tmp_path / "plain.key", KEY)
    assert read_master_key(tmp_path / "plain.key") == KEY
    with pytest.raises(PassphraseError, match=r"plain\.key is not wrapped with a passphrase"):
        read_master_key(tmp_path / "plain.key", never)


def test_a_file_that_is_no_key_at_all_is_refused(tmp_path: Path, never: PassphraseSource) -> None:
    write_client_key(tmp_path / "client.key", KEY.client_key(24, 4))
    with pytest.raises(KeyFileError, match="not a stip-master-key file"):
        read_master_key(tmp_path / "client.key", never)


def test_a_wrapped_key_from_a_base_seed_is_no_secret_either(tmp_path: Path) -> None:
    write_master_key(tmp_path / "seed.key", KEY, base_seed=11, passphrase=PASSPHRASE)
    with pytest.warns(NotSecretWarning):
        read_master_key(tmp_path / "seed.key", in_file(tmp_path / "words", PASSPHRASE.secret))
    with pytest.warns(NotSecretWarning):
        inspect(tmp_path / "seed.key")


def test_inspect_describes_a_wrapped_key_without_opening_it(path: Path) -> None:
    (described,) = inspect(path)
    assert described["fingerprint"] == KEY.fingerprint
    assert described["passphrase"] == "not tried"


def test_inspect_opens_it_with_a_passphrase(path: Path) -> None:
    (described,) = inspect(path, passphrase=PASSPHRASE)
    assert described["passphrase"] == "right"
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        inspect(path, passphrase=Passphrase(b"other"))


def test_inspect_of_what_is_not_wrapped_takes_no_passphrase(tmp_path: Path) -> None:
    write_master_key(tmp_path / "plain.key", KEY)
    for each in (tmp_path, tmp_path / "plain.key"):
        with pytest.raises(PassphraseError, match="is not wrapped with a passphrase"):
            inspect(each, passphrase=PASSPHRASE)


def test_no_repr_or_error_shows_key_or_passphrase(path: Path) -> None:
    shown = repr(PASSPHRASE) + str(PASSPHRASE)
    for secret in (b"wrong horse", PASSPHRASE.secret):
        edit_json(path, secret=secret != PASSPHRASE.secret)
        with pytest.raises(KeysError) as error:
            read_master_key(path, in_file(path.with_name("words"), secret))
        shown += str(error.value) + repr(error.value) + str(error.value.hint)
    for text in ("horse", KEY.secret.hex()[:16], repr(KEY.secret)[2:-1]):
        assert text not in shown


@pytest.mark.parametrize("content", [b"words\n", b"words", b"words\r\n", b"words\nsecond\n"])
def test_a_passphrase_file_s_first_line_is_the_passphrase(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(content)
    assert read_passphrase(path) == Passphrase(b"words")


def test_spaces_and_letters_of_any_script_belong_to_a_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(" Lösung 42 \n", encoding="utf-8")
    assert read_passphrase(path).secret.decode() == " Lösung 42 "


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\nwords\n", "empty"),
        (b"\r\n", "empty"),
        (b"hush \xff\n", "UTF-8"),
        (b"h" * (MAX_BYTES + 1), "more than 4096 bytes"),
    ],
    ids=["nothing", "empty line", "line end", "no text", "too long"],
)
def test_what_is_no_passphrase_is_refused_and_not_shown(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(PassphraseError, match=f"first line of {path} .*{says}") as error:
        read_passphrase(path)
    assert "hush" not in str(error.value) and "hhh" not in str(error.value)


def test_a_passphrase_file_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"words\n")
    path.chmod(0o644)
    with pytest.warns(KeyFilePermissionWarning, match="0644"):
        read_passphrase(path)


def test_where_there_is_no_terminal_a_file_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(PassphraseError, match="no terminal") as error:
        PassphraseSource(option="--sign-passphrase-file").passphrase(Path("signing.key"))
    assert "--sign-passphrase-file" in str(error.value.hint)
    with pytest.raises(PassphraseError, match="no terminal"):
        new_passphrase(None)


@pytest.mark.parametrize("package", ["stip_keys", "stip_client", "stip_server"])
def test_no_command_line_imports_cryptography_before_it_is_used(package: str) -> None:
    code = f"import sys, {package}.cli; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
