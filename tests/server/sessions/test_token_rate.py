"""Tokens a second, with a clock of our own."""

from __future__ import annotations

import pytest

from stip_server.sessions.token_rate import TokenRate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> TokenRate:
    """Ten tokens a second."""
    return TokenRate(10.0, clock)


def test_without_a_limit_nobody_waits(clock: Clock) -> None:
    assert TokenRate(None, clock).charge("me", 10**9) == 0.0


def test_a_seconds_tokens_are_there_and_whoever_has_overdrawn_them_waits(rate: TokenRate) -> None:
    assert [rate.charge("me", 1) for _ in range(11)] == [0.0] * 11
    assert rate.charge("me", 1) == pytest.approx(0.1)
    assert rate.charge("me", 1) == pytest.approx(0.2)


def test_a_prompt_of_any_size_is_taken_and_paid_for_by_what_follows(
    rate: TokenRate, clock: Clock
) -> None:
    assert rate.charge("me", 1010) == 0.0
    clock.now += 60.0
    assert rate.charge("me", 1) == pytest.approx(40.0)


def test_a_debt_is_paid_off_by_time(rate: TokenRate, clock: Clock) -> None:
    rate.charge("me", 20)
    clock.now += 1.5
    assert rate.charge("me", 6) == 0.0
    assert rate.charge("me", 1) == pytest.approx(0.1)


def test_who_was_quiet_for_long_has_saved_one_second_and_no_more(
    rate: TokenRate, clock: Clock
) -> None:
    rate.charge("me", 10)
    clock.now += 3600.0
    assert rate.charge("me", 11) == 0.0
    assert rate.charge("me", 1) == pytest.approx(0.1)


def test_who_waits_as_told_gets_the_rate_and_no_more(rate: TokenRate, clock: Clock) -> None:
    started, paid = clock.now, 0
    for size in (1, 7, 30, 2, 1, 1, 55, 3) * 20:
        clock.now += rate.charge("me", size)
        # what was taken before has been paid, but for one second's tokens
        assert clock.now - started >= (paid - 10) / 10 - 1e-9
        paid += size
    assert clock.now - started == pytest.approx((paid - size - 10) / 10)


def test_callers_do_not_pay_for_each_other(rate: TokenRate) -> None:
    rate.charge("greedy", 1000)
    assert rate.charge("greedy", 1) > 0
    assert rate.charge("modest", 10) == 0.0


def test_a_rate_below_one_token_a_second_works(clock: Clock) -> None:
    rate = TokenRate(0.5, clock)
    assert rate.charge("me", 1) == 0.0
    assert rate.charge("me", 1) == pytest.approx(1.0)
    clock.now += 1.0
    assert rate.charge("me", 1) == pytest.approx(2.0)
