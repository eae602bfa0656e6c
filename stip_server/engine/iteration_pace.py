"""How much an iteration may compute at once, so that the engine keeps showing that it lives.

A heartbeat is shown between iterations and, in long ones, between layers. Plain Python.
"""

from __future__ import annotations

from typing import NamedTuple

# Rows from which an iteration is evaluated layer by layer: it takes long enough that the pause
# between layers does not count, and that its progress should show. Where the few rows of the
# warm-up take so many seconds, every iteration is.
LONG_ROWS = 64
LONG_SECONDS = 0.2
# Seconds that a layer of an iteration may take: half of those after which the engine seems stuck.
LONGEST_LAYER = 2.0
# The head is wider than a layer: so many times fewer rows go through it at once.
HEAD_SHARE = 8


class Pace(NamedTuple):
    """Rows that an iteration may have, from which it counts as long, and that the head may be
    given at once."""

    max_rows: int
    long_rows: int
    head_rows: int


def pace_of(seconds: float, rows: int, num_layers: int) -> Pace:
    """The pace of a device that took so many seconds for so many rows."""
    most = max(1, int(LONGEST_LAYER * num_layers * rows / seconds))
    return Pace(most, 1 if seconds > LONG_SECONDS else LONG_ROWS, max(1, most // HEAD_SHARE))
