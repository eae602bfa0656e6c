"""How stip-keys speaks to its user beside its output."""

from __future__ import annotations

import sys

PROGRAM = "stip-keys"


def say(text: str) -> None:
    """A line to stderr, under the program's name."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)
