"""Passphrases: typed on a terminal without echo, or read from the first line of a file.

No option takes a passphrase itself, because everyone on a machine can read command lines.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from dataclasses import dataclass, field
from getpass import GetPassWarning, getpass
from pathlib import Path

from stip_keys.masks.errors import KeyFilePermissionWarning, PassphraseError

MAX_BYTES = 4096


@dataclass(frozen=True)
class Passphrase:
    """UTF-8 bytes, at least one. Raises PassphraseError for none."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secret:
            raise PassphraseError("the passphrase is empty")


@dataclass(frozen=True)
class PassphraseSource:
    """Where a key file's passphrase comes from: `file`, or the terminal where there is none.

    `option` is what the user names the file with.
    """

    file: Path | None = None
    option: str = "--passphrase-file"

    def passphrase(self, key_file: Path) -> Passphrase:
        """The passphrase of a wrapped key file. Raises PassphraseError."""
        if self.file is not None:
            return read_passphrase(self.file)
        if not _on_terminal():
            raise PassphraseError(
                f"{key_file} is wrapped with a passphrase, and there is no terminal to ask on",
                hint=f"name a file that holds the passphrase with {self.option}",
            )
        return _ask(f"passphrase of {key_file}: ")


ON_TERMINAL = PassphraseSource()


def not_wrapped(path: Path, option: str = "--passphrase-file") -> PassphraseError:
    """The error for a passphrase given for a key that is not wrapped."""
    return PassphraseError(
        f"{path} is not wrapped with a passphrase",
        hint=f"leave {option} out; stip-keys new --passphrase makes a wrapped key",
    )


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


def warn_if_others_can_read(path: Path, mode: int) -> None:
    """Warn with KeyFilePermissionWarning; `mode` is the open file's st_mode."""
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        warnings.warn(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}",
            KeyFilePermissionWarning,
            stacklevel=3,
        )


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str) -> Passphrase:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # never show what is typed
            return Passphrase(getpass(prompt).encode())
    except EOFError:
        raise PassphraseError("no passphrase was given") from None
    except (GetPassWarning, UnicodeError):
        raise PassphraseError(
            "the terminal cannot be asked for a passphrase",
            hint="name a file that holds it with --passphrase-file",
        ) from None
