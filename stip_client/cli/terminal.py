"""Writes to a terminal. Text from a server must not control the terminal."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from stip_client.errors import ClientError

PROGRAM = "stip-client"
# Control and format characters (some reverse the direction of text), lone surrogates, and
# line separators.
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners are format characters that emoji and several scripts need.
_HARMLESS = {"\n", "\t", "\u200c", "\u200d"}


def printable(text: str) -> str:
    """The text with characters escaped that could control a terminal; newline and tab stay."""
    return "".join(repr(each)[1:-1] if _controls(each) else each for each in text)


def reply_text(text: str, file: TextIO) -> str:
    """A reply's text for a file: escaped if the file is a terminal, unchanged otherwise."""
    return printable(text) if file.isatty() else text


def shown_floats(values: Sequence[float]) -> str:
    """Floats as text, with their signs."""
    return " ".join(f"{value:+.3f}" for value in values)


def say(text: str) -> None:
    """Write one line to standard error, after the program's name."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    print(f"{PROGRAM}: {shown}", file=sys.stderr, flush=True)


def say_error(error: ClientError) -> None:
    """Write an error and its hint to standard error, one line each."""
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Write the library's warnings, such as a repaired connection, with `say`."""
    log, handler = logging.getLogger("stip_client"), _Lines(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def _controls(character: str) -> bool:
    return character not in _HARMLESS and unicodedata.category(character) in _CONTROL
