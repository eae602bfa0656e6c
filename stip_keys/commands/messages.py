"""Messages to the user, on stderr."""

from __future__ import annotations

import sys

PROGRAM = "stip-keys"


def say(text: str) -> None:
    """Print a line to stderr, after the program's name."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)
