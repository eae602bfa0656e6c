"""Claims about the arithmetic of the benchmark and of the soak: what they would fail to notice."""

from __future__ import annotations

import pytest

from benchmarks.soak.memory import Memory
from benchmarks.soak.statuses import documented
from benchmarks.speed.timing import Batch, Timing


def timing(*arrivals: float) -> Timing:
    return Timing([0] * len(arrivals), list(arrivals))


def test_a_batch_is_measured_only_while_all_of_its_streams_decode() -> None:
    early = timing(0.0, 0.1, 0.2, 1.0, 2.0, 3.0)  # quick while it is alone
    late = timing(1.0, 2.0, 3.0, 4.0, 4.1)  # and so is this one
    batch = Batch([early, late])
    assert batch.tokens_per_second == pytest.approx(2.0)
    assert batch.gaps == pytest.approx([1.0] * 4)


def test_streams_that_take_turns_lose_no_part_of_a_step() -> None:
    batch = Batch([timing(0.0, 1.0, 2.0, 3.0), timing(0.5, 1.5, 2.5, 3.5)])
    assert batch.tokens_per_second == pytest.approx(2.0)


def test_a_single_stream_is_measured_from_its_first_token_to_its_last() -> None:
    assert Batch([timing(5.0, 5.5, 6.0)]).tokens_per_second == pytest.approx(2.0)


def test_streams_that_ran_one_after_the_other_are_no_batch() -> None:
    with pytest.raises(RuntimeError, match="more tokens"):
        _ = Batch([timing(0.0, 1.0), timing(2.0, 3.0)]).tokens_per_second


def test_memory_that_grows_after_the_warm_up_is_a_failure() -> None:
    steady = [(5.0 * n, 100.0 if n > 20 else 50.0 + n) for n in range(121)]
    assert Memory(steady).failures() == []
    growing = [(at, rss + at / 10) for at, rss in steady]  # 48 MiB from the warm-up on
    assert Memory(growing).failures() == ["memory grew by 48 MiB, more than 24"]
    spike = [*steady[:60], (300.0, 300.0), *steady[61:]]
    assert Memory(spike).failures() == ["memory swung by 200 MiB, more than 128"]


def test_the_documented_statuses_are_those_of_the_specification() -> None:
    pairs = documented()
    assert {
        ("INVALID_ARGUMENT", "MALFORMED"),
        ("INVALID_ARGUMENT", "TOO_MANY_ROWS"),
        ("INVALID_ARGUMENT", "TOO_MANY_BYTES"),
        ("INTERNAL", "READER_FAILED"),
    } <= pairs
    assert ("status", "reason") not in pairs
    assert all(status.isupper() and " " not in reason for status, reason in pairs)
