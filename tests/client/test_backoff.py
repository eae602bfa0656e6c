"""Pauses between attempts: bounded, spread out, and as long as the server asks for."""

from __future__ import annotations

import pytest

from stip_client.errors import ConnectionLostError, ServerBusyError
from stip_client.transport.backoff import FIRST, LONGEST, Backoff


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


LOST = ConnectionLostError("lost")


def pauses(backoff: Backoff, clock: Clock, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(backoff.pause(LOST))
        clock.now += found[-1]
    return found


def test_pauses_double_up_to_a_bound() -> None:
    clock = Clock()
    found = pauses(Backoff(1000, clock=clock, draw=lambda: 1.0), clock, 9)
    assert found[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert found[-2:] == [LONGEST, LONGEST]


def test_pauses_are_spread_between_half_and_the_whole() -> None:
    clock = Clock()
    short = pauses(Backoff(1000, clock=clock, draw=lambda: 0.0), clock, 3)
    assert short == [FIRST / 2, FIRST, 2 * FIRST]


def test_patience_counts_from_the_first_failure() -> None:
    clock = Clock()
    backoff = Backoff(3.0, clock=clock, draw=lambda: 1.0)
    clock.now += 100
    assert backoff.left == 3.0 and backoff.attempts == 0
    assert sum(pauses(backoff, clock, 5)) == pytest.approx(3.0)  # the last pause ends with it
    clock.now += 1e-9
    assert backoff.left == 0.0
    with pytest.raises(ConnectionLostError):
        backoff.pause(LOST)


def test_patience_may_count_from_before() -> None:
    clock = Clock()
    backoff = Backoff(3.0, clock=clock).begin()
    clock.now += 2.9
    assert backoff.left == pytest.approx(0.1)
    clock.now += 0.2
    with pytest.raises(ConnectionLostError):
        backoff.pause(LOST)


def test_the_server_s_word_is_heeded() -> None:
    clock = Clock()
    backoff = Backoff(3.0, clock=clock)
    busy = ServerBusyError("full", retry_after=2.0)
    assert backoff.pause(busy) == 2.0
    clock.now += 2.0
    assert backoff.pause(busy, elsewhere=True) <= 2 * FIRST  # another server did not say so
    with pytest.raises(ServerBusyError):
        backoff.pause(busy)  # it would be too late


def test_no_patience_is_no_other_attempt() -> None:
    with pytest.raises(ConnectionLostError):
        Backoff(0.0).pause(LOST)
