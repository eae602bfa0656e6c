"""What the command line writes to a terminal: nothing that came from a server may steer it."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from stip_client.errors import ClientError

PROGRAM = "stip-client"
# Control and format characters (some of the latter turn the direction of text round), lone
# surrogates, and separators of lines.
_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners are format characters, and emoji and several scripts are written with them.
_HARMLESS = {"\n", "\t", "\u200c", "\u200d"}


def printable(text: str) -> str:
    """The text with every character escaped that could steer a terminal; newlines and tabs stay."""
    return "".join(repr(each)[1:-1] if _steers(each) else each for each in text)


def reply_text(text: str, file: TextIO) -> str:
    """A reply's text as it is written to a file: as it came, unless that is a terminal."""
    return printable(text) if file.isatty() else text


def say(text: str) -> None:
    """Write one line to standard error, under the program's name."""
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
    print(f"{PROGRAM}: {shown}", file=sys.stderr, flush=True)


def say_error(error: ClientError) -> None:
    """Write an error and its hint, a line each, to standard error."""
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Write what the library warns of, such as a connection that it mends, in lines like ours."""
    log, handler = logging.getLogger("stip_client"), _Lines(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def _steers(character: str) -> bool:
    return character not in _HARMLESS and unicodedata.category(character) in _STEERING
