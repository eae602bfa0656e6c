"""Passphrases: asked for on a terminal, without echo, or read from the first line of a file.

There is no option that takes one itself: command lines can be read by everyone on a machine.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from getpass import GetPassWarning, getpass
from pathlib import Path

from stip_keys.errors import PassphraseError
from stip_keys.permissions import warn_if_others_can_read

MAX_BYTES = 4096


@dataclass(frozen=True)
class Passphrase:
    """UTF-8 bytes, at least one. Raises PassphraseError for none."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secret:
            raise PassphraseError("the passphrase is empty")


# Called with the path of a wrapped key file, when its passphrase is needed.
PassphraseSource = Callable[[Path], Passphrase]


def passphrase_source(file: Path | None, *, option: str = "--passphrase-file") -> PassphraseSource:
    """A source that reads `file`, or asks on the terminal where there is no file.

    `option` is what the user could have named the file with. The source raises PassphraseError.
    """

    def passphrase_of(key_file: Path) -> Passphrase:
        if file is not None:
            return read_passphrase(file)
        if not _on_terminal():
            raise PassphraseError(
                f"{key_file} is wrapped with a passphrase, and there is no terminal to ask on",
                hint=f"name a file that holds the passphrase with {option}",
            )
        return _ask(f"passphrase of {key_file}: ")

    return passphrase_of


ON_TERMINAL = passphrase_source(None)


def new_passphrase(file: Path | None) -> Passphrase:
    """The passphrase for a new key file: of `file`, or asked for twice. Raises PassphraseError."""
    if file is not None:
        return read_passphrase(file)
    if not _on_terminal():
        raise PassphraseError(
            "there is no terminal to ask for a passphrase on",
            hint="name a file that holds it with --passphrase-file",
        )
    chosen = _ask("new passphrase: ")
    if _ask("the same again: ") != chosen:
        raise PassphraseError("the two passphrases differ", hint="nothing was written")
    return chosen


def read_passphrase(path: Path) -> Passphrase:
    """The first line of a file, without its line end. Raises PassphraseError.

    Warns with KeyFilePermissionWarning when others can read the file.
    """
    try:
        with path.open("rb") as file:
            warn_if_others_can_read(path, os.fstat(file.fileno()).st_mode)
            line = file.readline(MAX_BYTES + 1)
    except OSError as error:
        raise PassphraseError(f"cannot read passphrase file {path}: {error.strerror}") from error
    if len(line) > MAX_BYTES:
        raise PassphraseError(f"the first line of {path} has more than {MAX_BYTES} bytes")
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise PassphraseError(f"the first line of {path} is empty: it is to be the passphrase")
    try:
        line.decode()
    except UnicodeDecodeError:
        raise PassphraseError(f"the first line of {path} is not UTF-8") from None
    return Passphrase(line)


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str) -> Passphrase:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # rather than show what is typed
            return Passphrase(getpass(prompt).encode())
    except EOFError:
        raise PassphraseError("no passphrase was given") from None
    except (GetPassWarning, UnicodeError):
        raise PassphraseError(
            "the terminal cannot be asked for a passphrase",
            hint="name a file that holds it with --passphrase-file",
        ) from None
