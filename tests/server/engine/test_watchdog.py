"""The watchdog decides from beats whether an engine lives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from stip_server.engine.engine import HEARTBEAT
from stip_server.engine.watchdog import STALLED_TICKS, TICK, Condition, Watchdog

# Seconds within which a stuck engine is to be reported.
PROMISE = 5.0


@dataclass
class Engine:
    alive: bool = True
    beats: int = 7


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def watchdog(engine: Engine) -> Watchdog:
    return Watchdog(engine)


def ticks(watchdog: Watchdog, number: int) -> list[bool]:
    return [watchdog.tick() for _ in range(number)]


def test_an_engine_that_beats_is_well_however_long(watchdog: Watchdog, engine: Engine) -> None:
    idle_beats = round(HEARTBEAT / TICK)
    for _ in range(100):
        engine.beats += 1
        assert not any(ticks(watchdog, idle_beats))
        assert watchdog.condition is Condition.WELL
        assert watchdog.seconds_without_beat <= HEARTBEAT


def test_an_engine_without_a_beat_is_stalled_once_and_in_time(watchdog: Watchdog) -> None:
    assert ticks(watchdog, 3 * STALLED_TICKS).index(True) == STALLED_TICKS - 1
    assert watchdog.condition is Condition.STALLED
    assert watchdog.seconds_without_beat == 3 * STALLED_TICKS * TICK
    # the last beat may have come just after a tick
    assert (STALLED_TICKS + 1) * TICK < PROMISE


def test_an_idle_engine_may_miss_beats_before_it_counts_as_stalled() -> None:
    assert STALLED_TICKS * TICK > 3 * HEARTBEAT


def test_a_stalled_engine_gets_well_with_its_next_beat(watchdog: Watchdog, engine: Engine) -> None:
    ticks(watchdog, STALLED_TICKS)
    engine.beats += 1
    assert watchdog.tick()
    assert watchdog.condition is Condition.WELL
    assert watchdog.seconds_without_beat == 0
    assert ticks(watchdog, STALLED_TICKS) == [False] * (STALLED_TICKS - 1) + [True]


def test_an_engine_whose_thread_has_ended_is_dead_at_once(
    watchdog: Watchdog, engine: Engine
) -> None:
    engine.beats += 1
    engine.alive = False
    assert watchdog.tick()
    assert watchdog.condition is Condition.DEAD
    assert not any(ticks(watchdog, 2 * STALLED_TICKS))
    assert watchdog.condition is Condition.DEAD


def test_a_stalled_engine_may_die(watchdog: Watchdog, engine: Engine) -> None:
    ticks(watchdog, STALLED_TICKS)
    engine.alive = False
    assert watchdog.tick()
    assert watchdog.condition is Condition.DEAD
