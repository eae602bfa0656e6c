"""The unit of the demo corpus: one answer with the wordings that ask for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One answer. `held` wordings are never used in training."""

    kind: str
    wordings: tuple[str, ...]
    held: tuple[str, ...]
    answer: str
    subject: str = ""
    dressed: bool = True  # may get a greeting before it and a "please" after it


def rows(text: str) -> list[list[str]]:
    """Split a table written as one row a line, with cells separated by ` | `."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return text.split()


def start(text: str) -> str:
    """The text with its first letter in upper case, as at the start of a sentence."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def table(
    kind: str,
    cells: Iterable[Sequence[str]],
    wordings: Sequence[str],
    held: Sequence[str],
    answer: str,
) -> list[Item]:
    """One item a row; `{0}`, `{1}` ... in wordings and answer stand for the row's cells."""
    return [
        Item(
            kind,
            tuple(start(wording.format(*row)) for wording in wordings),
            tuple(start(wording.format(*row)) for wording in held),
            start(answer.format(*row)),
            row[0],
        )
        for row in cells
    ]


def blocks(kind: str, text: str, *, dressed: bool) -> list[Item]:
    """Items from paragraphs: the answer, then a wording a line; `~` marks a held-out one."""
    items = []
    for paragraph in text.strip().split("\n\n"):
        answer, *asked = (line.strip() for line in paragraph.splitlines())
        items.append(
            Item(
                kind,
                tuple(line for line in asked if not line.startswith("~")),
                tuple(line[1:].strip() for line in asked if line.startswith("~")),
                answer,
                dressed=dressed,
            )
        )
    return items
