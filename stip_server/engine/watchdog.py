"""Tells whether the engine lives, from the beats it shows. Plain Python; it is ticked from outside.

Counting ticks without a beat, rather than reading a clock, a machine that was suspended is not
mistaken for an engine that hangs.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

# Seconds between two ticks, and ticks without a beat after which the engine is stuck: 4 s, while an
# idle engine shows a beat a second.
TICK = 0.5
STALLED_TICKS = 8


class Pulse(Protocol):
    """What of an engine is watched."""

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""

    @property
    def beats(self) -> int:
        """A number that changes as long as the engine gets on."""


class Condition(Enum):
    """How the engine is."""

    WELL = "well"
    STALLED = "stalled"
    DEAD = "dead"


class Watchdog:
    """Watches one engine. A stalled one may get well again, a dead one does not."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._beats = pulse.beats
        self._ticks = 0
        self.condition = Condition.WELL

    @property
    def seconds_without_beat(self) -> float:
        """The heartbeat's age, to a tick."""
        return self._ticks * TICK

    def tick(self) -> bool:
        """Look at the engine; whether its condition has changed."""
        before = self.condition
        beats = self._pulse.beats
        self._ticks = self._ticks + 1 if beats == self._beats else 0
        self._beats = beats
        if not self._pulse.alive:
            self.condition = Condition.DEAD
        elif self._ticks >= STALLED_TICKS:
            self.condition = Condition.STALLED
        else:
            self.condition = Condition.WELL
        return self.condition is not before
