"""How much an iteration may compute at once, so that the engine keeps showing that it lives.

The engine beats between iterations, and in long ones between layers. Plain Python.
"""

from __future__ import annotations

from typing import NamedTuple

# An iteration of this many rows is evaluated layer by layer: it takes long enough that the pauses
# between layers do not matter. Where the warm-up takes LONG_SECONDS, every iteration is.
LONG_ROWS = 64
LONG_SECONDS = 0.2
# Seconds that a layer of an iteration may take: half of those after which the engine seems stuck.
LONGEST_LAYER = 2.0
# The head is wider than a layer: this many times fewer rows go through it at once.
HEAD_SHARE = 8
# The most rows that go through the head at once, as their logits take memory.
HEAD_ROWS = 64


class Pace(NamedTuple):
    """Numbers of rows."""

    max_rows: int  # of an iteration
    long_rows: int  # from which an iteration is evaluated layer by layer
    head_rows: int  # that go through the head at once


def pace_of(seconds: float, rows: int, num_layers: int) -> Pace:
    """Return the pace of a device that took `seconds` for an iteration of `rows` rows."""
    max_rows = max(1, int(LONGEST_LAYER * num_layers * rows / seconds))
    long_rows = 1 if seconds > LONG_SECONDS else LONG_ROWS
    return Pace(max_rows, long_rows, min(HEAD_ROWS, max(1, max_rows // HEAD_SHARE)))
