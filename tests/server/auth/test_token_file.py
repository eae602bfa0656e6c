"""The token file: its syntax, what its errors show, and how changes take effect."""

from __future__ import annotations

import errno
import hmac
import logging
import os
from pathlib import Path

import pytest

from stip_server.auth.token_file import TokenFile
from stip_server.errors import StartError

ALICE = "alice-token-0123456789"
ALICE_NEXT = "alice-token-9876543210"
BOB = "bob#token,with=punctuation/+"


def write(path: Path, text: str | bytes) -> Path:
    """Write a new file and rename it, so that nobody reads half of one."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    return new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens", f"alice {ALICE}\n")


def test_every_token_of_a_name_counts(path: Path) -> None:
    write(path, f"# who may\n\n  alice {ALICE}\nalice\t{ALICE_NEXT}\r\nb.o_b@x-y {BOB}")
    tokens = TokenFile(path)
    assert [(tokens.find(token) or [""])[0] for token in (ALICE, ALICE_NEXT, BOB)] == [
        "alice",
        "alice",
        "b.o_b@x-y",
    ]
    assert tokens.find("nobody-has-this-token") is None
    assert tokens.find("") is None


BAD_FILES = {
    "one word": (f"# x\n{ALICE}\n", "line 2: 1 words"),
    "a comment behind": (f"alice {ALICE} # mine\n", "line 1: 4 words"),
    "swapped": (f"{'+' + ALICE} alice\n", "line 1: the name does not match"),
    "long name": (f"{'a' * 65} {ALICE}\n", "line 1: the name does not match"),
    "foreign name": (f"älice {ALICE}\n", "line 1: the name does not match"),
    "short token": (f"alice {ALICE[:15]}\n", "line 1: the token is not 16 or more"),
    "foreign token": (f"alice {ALICE}ä\n", "line 1: the token is not 16 or more visible ASCII"),
    "the same token twice": (f"alice {ALICE}\n\nbob {ALICE}\n", "line 3: the same token as in l"),
    "the same line twice": (f"alice {ALICE}\nalice {ALICE}\n", "line 2: the same token as in line"),
    "latin-1": (b"\n\nalice " + ALICE.encode() + b"\xe4\n", "line 3: not UTF-8"),
    "no token": ("# nobody\n", "holds no token"),
    "nothing": ("", "holds no token"),
    "too large": (b"#" * (1024 * 1024 + 1), "bytes; at most"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_error_names_the_line_and_shows_nothing_of_it(name: str, path: Path) -> None:
    content, says = BAD_FILES[name]
    write(path, content)
    with pytest.raises(StartError) as caught:
        TokenFile(path)
    assert f"{path}" in str(caught.value) and says in str(caught.value)
    shown = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert ALICE[:8] not in shown.replace(str(path), "")


def test_a_missing_file_a_folder_and_a_pipe_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path / "none", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(StartError, match=says):
            TokenFile(path)
    with pytest.raises(StartError, match="not a regular file"):
        TokenFile(tmp_path / "pipe")


def test_only_digests_are_kept_and_no_repr_shows_a_token(path: Path) -> None:
    tokens = TokenFile(path)
    assert ALICE not in repr(tokens)
    assert ALICE not in str(vars(tokens)) and ALICE.encode() not in list(vars(tokens)["_names"])


def test_every_digest_is_compared_in_constant_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, f"alice {ALICE}\nalice {ALICE_NEXT}\nbob {BOB}\n")
    tokens = TokenFile(path)
    compared = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for token in (ALICE, BOB, "nobody-has-this-token"):
        compared.clear()
        tokens.find(token)
        assert len(compared) == 3


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)])
def test_a_file_that_others_can_read_is_used_with_a_warning(
    mode: int, warned: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(mode)
    assert TokenFile(path).find(ALICE)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == warned
    assert all(f"chmod 600 {path}" in record.getMessage() for record in warnings)


def test_a_change_is_taken_up_once(path: Path) -> None:
    tokens = TokenFile(path)
    assert not tokens.reload_if_changed()
    name, digest = tokens.find(ALICE) or ("", b"")
    write(path, f"alice {ALICE_NEXT}\n")
    assert tokens.reload_if_changed()
    assert not tokens.reload_if_changed()
    assert tokens.find(ALICE) is None and tokens.find(ALICE_NEXT)
    assert not tokens.is_token_of(name, digest)


def test_a_file_of_the_same_size_and_time_is_seen_to_be_another(path: Path) -> None:
    tokens = TokenFile(path)
    before = path.stat()
    write(path, f"alice {ALICE_NEXT}\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert tokens.reload_if_changed()


def test_a_token_that_moves_to_another_name_no_longer_names_the_first(path: Path) -> None:
    tokens = TokenFile(path)
    name, digest = tokens.find(ALICE) or ("", b"")
    assert tokens.is_token_of(name, digest)
    write(path, f"bob {ALICE}\n")
    assert tokens.reload_if_changed()
    assert not tokens.is_token_of(name, digest)


@pytest.mark.parametrize("content", [None, "", f"alice {ALICE}\nalice", b"\xff"])
def test_a_bad_change_keeps_the_old_tokens_and_is_logged_once(
    content: str | bytes | None, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokenFile(path)
    if content is None:
        path.unlink()
    else:
        write(path, content)
    for _ in range(3):
        assert not tokens.reload_if_changed()
    assert tokens.find(ALICE)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert str(path) in caplog.text and ALICE not in caplog.text
    write(path, f"alice {ALICE_NEXT}\n")
    assert tokens.reload_if_changed()
    assert tokens.find(ALICE_NEXT) and not tokens.find(ALICE)


@pytest.mark.parametrize("failure", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_change_that_cannot_be_read_is_taken_up_once_it_can(
    failure: int, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that has run out of files must not go on with a token that was removed."""
    tokens = TokenFile(path)
    write(path, f"alice {ALICE_NEXT}\n")
    with monkeypatch.context() as patch:

        def refuse(_: Path) -> bytes:
            raise OSError(failure, os.strerror(failure))

        patch.setattr(Path, "read_bytes", refuse)
        for _ in range(3):
            assert not tokens.reload_if_changed()
        assert tokens.find(ALICE)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert tokens.reload_if_changed()
    assert tokens.find(ALICE_NEXT) and not tokens.find(ALICE)
