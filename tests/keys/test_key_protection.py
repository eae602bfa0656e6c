"""Signing and passphrases on the three command lines."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.model.test_bundle_damage import generate, start_server
from tests.support.command_line import assert_no_traceback, assert_refused, listing
from tests.support.models.damage import edit_json
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import run_tool, server_process
from tests.support.typist import CTRL_C, CTRL_D, Typist, typing

MASTER_WORDS, SIGNING_WORDS = "correct horse battery staple", "Lösung 42"


@dataclass(frozen=True)
class Signed:
    """A wrapped master key, a wrapped signing key, and bundles made with both."""

    folder: Path

    @property
    def bundles(self) -> Path:
        return self.folder / "bundles"

    @property
    def keys(self) -> list[object]:
        """The options of convert that name the keys."""
        return [
            *("--key", self.folder / "master.key"),
            *("--passphrase-file", self.folder / "master.words"),
            *("--sign", self.folder / "signing.key"),
            *("--sign-passphrase-file", self.folder / "signing.words"),
        ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: RandomCheckpoint) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("source") / "checkpoint")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Signed:
    made = Signed(tmp_path_factory.mktemp("signed"))
    for name, words in (("master", MASTER_WORDS), ("signing", SIGNING_WORDS)):
        file = made.folder / f"{name}.words"
        file.touch(mode=0o600)
        file.write_text(words + "\n", encoding="utf-8")
        done = run_tool(
            *("stip_keys", "new", "-o", made.folder / f"{name}.key", "--passphrase-file", file),
            *(["--signing"] if name == "signing" else []),
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (
        run_tool("stip_keys", "new", "--signing", "-o", made.folder / "other.key").returncode == 0
    )
    done = run_tool("stip_keys", "convert", checkpoint, "-o", made.bundles, *made.keys)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return made


def test_both_bundles_of_a_conversion_are_signed(signed: Signed) -> None:
    public = signed.folder / "signing.pub"
    done = run_tool("stip_keys", "inspect", signed.bundles, "--json", "--verify-key", public)
    assert done.returncode == 0, done.stderr
    fingerprint = run_tool("stip_keys", "inspect", public).stdout.split("fingerprint")[1].strip()
    assert [each["signed_by"] for each in json.loads(done.stdout)] == [fingerprint] * 2
    other = signed.folder / "other.pub"
    done = run_tool("stip_keys", "inspect", signed.bundles, "--verify-key", other)
    assert_refused(done, "is signed by", fingerprint)


def test_server_and_client_take_a_bundle_of_the_right_signer(signed: Signed) -> None:
    public = ("--verify-key", signed.folder / "signing.pub")
    asked = ("--bundle", signed.bundles / "client", "--prompt", "w1", "--max-new-tokens", 1)
    with server_process(signed.bundles / "server", *public) as server:
        # the checkpoint has no tokenizer: that is found when the bundle is open
        for verify in (public, ()):
            done = run_tool("stip_client", "generate", "--server", server.address, *asked, *verify)
            assert_refused(done, "holds no tokenizer.json")
    with server_process(signed.bundles / "server"):
        pass  # without the key as well


def test_server_and_client_refuse_a_bundle_of_another_signer(signed: Signed) -> None:
    other = ("--verify-key", signed.folder / "other.pub")
    assert_refused(generate("localhost:1", signed.bundles / "client", *other), "is signed by")
    assert_refused(start_server(signed.bundles / "server", *other), "is signed by")


def test_every_command_with_a_bundle_takes_a_verify_key(signed: Signed) -> None:
    bundle = signed.bundles / "client"
    for command in ("chat", "bench", "serve", "web"):
        done = run_tool(
            *("stip_client", command, "--bundle", bundle),
            *("--verify-key", signed.folder / "other.pub"),
            *(["--port", 0] if command in ("serve", "web") else []),
            stdin=subprocess.DEVNULL,
        )
        assert_refused(done, "is signed by")


def test_a_client_names_a_public_key_that_is_not_there(signed: Signed) -> None:
    missing = ("--verify-key", signed.folder / "missing.pub")
    assert_refused(generate("localhost:1", signed.bundles / "client", *missing), "missing.pub")
    assert_refused(start_server(signed.bundles / "server", *missing), "missing.pub")


def test_a_wrong_passphrase_and_a_damaged_file_have_errors_of_their_own(
    signed: Signed, checkpoint: Path, tmp_path: Path
) -> None:
    convert = ("stip_keys", "convert", checkpoint, "-o", tmp_path / "out")
    key = shutil.copy(signed.folder / "master.key", tmp_path / "master.key")
    wrong = ("--passphrase-file", signed.folder / "signing.words")
    assert_refused(run_tool(*convert, "--key", key, *wrong), "master.key: wrong passphrase")
    edit_json(Path(key), nonce="00" * 12)
    right = ("--passphrase-file", signed.folder / "master.words")
    assert_refused(run_tool(*convert, "--key", key, *right), "master.key: damaged")
    assert listing(tmp_path) == ["master.key"]


def test_a_passphrase_without_its_key_is_refused(
    signed: Signed, checkpoint: Path, tmp_path: Path
) -> None:
    convert = ("stip_keys", "convert", checkpoint, "-o", tmp_path / "out")
    for option, of in (("--passphrase-file", "--key"), ("--sign-passphrase-file", "--sign")):
        done = run_tool(*convert, option, signed.folder / "master.words")
        assert_refused(done, f"{option} opens the file of {of}")
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        "stip_keys convert {checkpoint} -o out --key plain.key --passphrase-file",
        "stip_keys convert {checkpoint} -o out --sign signing.key --sign-passphrase-file",
        "stip_keys rekey {bundles} -o out --key plain.key --passphrase-file",
        "stip_keys rekey {bundles} -o out --key old.key --new-key plain.key --new-passphrase-file",
        "stip_keys rekey {bundles} -o out --key old.key --sign signing.key --sign-passphrase-file",
        "stip_keys audit {bundles} --checkpoint {checkpoint} --key plain.key --passphrase-file",
        "stip_keys inspect plain.key --passphrase-file",
        "stip_client web --port 0 --bundle {bundles}/client --key plain.key --passphrase-file",
    ],
)
def test_a_passphrase_for_a_key_that_is_not_wrapped_is_refused(
    command: str, signed: Signed, checkpoint: Path, tmp_path: Path
) -> None:
    """Whoever gives one believes that the key is wrapped."""
    for new in (["old.key"], ["plain.key"], ["signing.key", "--signing"]):
        assert run_tool("stip_keys", "new", "-o", *new, cwd=tmp_path).returncode == 0
    before = listing(tmp_path)
    words = [part.format(checkpoint=checkpoint, bundles=signed.bundles) for part in command.split()]
    done = run_tool(*words, signed.folder / "master.words", cwd=tmp_path)
    *_, key, option = words
    assert_refused(done, f"{key} is not wrapped with a passphrase", hint=f"leave {option} out")
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "options",
    [
        ("new", "--signing", "--base-seed", 1),
        ("new", "--passphrase", "--passphrase-file", "words"),
        ("new", "--passphrase-f", "words"),
        ("convert", "source", "-o", "out", "--passphrase", "words"),
    ],
    ids=lambda options: options[1:],
)
def test_wrong_usage_is_refused(options: tuple[object, ...], tmp_path: Path) -> None:
    assert_refused(run_tool("stip_keys", *options, cwd=tmp_path), "", status=2)
    assert listing(tmp_path) == []


def test_without_a_terminal_a_wrapped_key_is_refused(
    signed: Signed, checkpoint: Path, tmp_path: Path
) -> None:
    key = ("--key", signed.folder / "master.key")
    convert = ("stip_keys", "convert", checkpoint, "-o", tmp_path / "out", *key)
    page = ("stip_client", "web", "--port", 0, "--bundle", signed.bundles / "client", *key)
    for command in (convert, page):
        done = run_tool(*command, stdin=subprocess.DEVNULL)
        assert_refused(done, "master.key is wrapped with a passphrase", hint="--passphrase-file")


def test_the_page_opens_a_wrapped_key(signed: Signed, tmp_path: Path) -> None:
    """It is refused for what is found when it has been opened: another bundle's key."""
    other = tmp_path / "client"
    shutil.copytree(signed.bundles / "client", other)
    page = ("stip_client", "web", "--port", 0, "--bundle", other, "--key")
    page += (signed.folder / "master.key", "--passphrase-file")
    done = run_tool(*page, signed.folder / "signing.words")
    assert_refused(done, "master.key: wrong passphrase")
    edit_json(other / "manifest.json", residual_blocks=1)
    done = run_tool(*page, signed.folder / "master.words")
    assert_refused(done, "not made with the master key")


def ends(typist: Typist, status: int) -> str:
    """All that the terminal has shown, once the command has ended with a status."""
    assert typist.leaves() == status, typist.everything
    assert_no_traceback(typist.everything)
    return typist.everything


def test_a_terminal_is_asked_twice_for_a_new_passphrase_and_once_for_it(tmp_path: Path) -> None:
    with typing(tmp_path, "new", "--passphrase", program="stip_keys") as typist:
        for question in ("new passphrase: ", "the same again: "):
            typist.until(question)
            typist.type(MASTER_WORDS + "\n")
        shown = ends(typist, 0)
    assert "horse" not in shown
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    key = ("--key", "master.key", "--scheme", "permutation")
    arguments = ("convert", tmp_path / "no checkpoint", "-o", "out", *key)
    for words, says in ((MASTER_WORDS, "no checkpoint"), ("horse", "wrong passphrase")):
        with typing(tmp_path, *arguments, program="stip_keys") as typist:
            typist.until("passphrase of master.key: ")
            command_line = " ".join(psutil.Process(typist.process.pid).cmdline())
            typist.type(words + "\n")
            shown = ends(typist, 1)
        assert says in shown
        assert "horse" not in shown + command_line


@pytest.mark.parametrize(
    ("typed", "status", "says"),
    [
        (["one\n", "another\n"], 1, "the two passphrases differ"),
        (["\n"], 1, "the passphrase is empty"),
        ([CTRL_D], 1, "no passphrase was given"),
        (["half" + CTRL_C], 130, "interrupted"),
    ],
    ids=["differ", "empty", "Ctrl-D", "Ctrl-C"],
)
def test_what_is_no_passphrase_on_a_terminal_makes_no_key(
    typed: list[str], status: int, says: str, tmp_path: Path
) -> None:
    with typing(tmp_path, "new", "--passphrase", program="stip_keys") as typist:
        for question, text in zip(("new passphrase: ", "the same again: "), typed, strict=False):
            typist.until(question)
            typist.type(text)
        shown = ends(typist, status)
    assert says in shown
    assert listing(tmp_path) == []


def test_no_secret_is_printed_on_the_way(signed: Signed, checkpoint: Path, tmp_path: Path) -> None:
    done = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out", *signed.keys)
    assert done.returncode == 0, done.stderr
    plain = run_tool("stip_keys", "new", "--signing", "-o", tmp_path / "plain.key")
    secret = json.loads((tmp_path / "plain.key").read_text())["key"]
    output = done.stdout + done.stderr + plain.stdout + plain.stderr
    for path in (tmp_path / "plain.key", signed.folder / "signing.key"):
        output += run_tool("stip_keys", "inspect", path).stdout
    for kept in (tmp_path / "out").rglob("*.*"):
        output += kept.read_bytes().decode(errors="replace")
    for words in (MASTER_WORDS, SIGNING_WORDS, secret, secret[:32]):
        assert words not in output
