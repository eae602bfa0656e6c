"""Reports whether the engine lives, from the beats that it counts. The caller ticks it.

It counts ticks without a beat and reads no clock: a machine that was suspended would otherwise look
like an engine that hangs.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

# Seconds between two ticks, and ticks without a beat after which the engine counts as stuck: 4 s.
# An idle engine beats once a second.
TICK = 0.5
STALLED_TICKS = 8


class Pulse(Protocol):
    """The part of an engine that is watched."""

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""

    @property
    def beats(self) -> int:
        """A number that changes as long as the engine makes progress."""


class Condition(Enum):
    """The state of the engine."""

    WELL = "well"
    STALLED = "stalled"
    DEAD = "dead"


class Watchdog:
    """Watches one engine. A stalled engine may recover, a dead one does not."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._beats = pulse.beats
        self._ticks = 0
        self.condition = Condition.WELL

    @property
    def seconds_without_beat(self) -> float:
        """The age of the last beat, to the precision of a tick."""
        return self._ticks * TICK

    def tick(self) -> bool:
        """Update the condition. Return whether it has changed."""
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
