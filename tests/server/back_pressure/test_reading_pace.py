"""How far a client lags behind in reading, with a clock of the test's own."""

from __future__ import annotations

from stip_server.sessions.back_pressure.reading_pace import SLOWEST_PACE, ReadingPace


class Client:
    """Reads answers, each within a given number of seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = ReadingPace(lambda: self.now)

    def read(self, size: int, seconds: float) -> None:
        self.pace.begin()
        assert self.pace.sending
        self.now += seconds
        self.pace.end(size)
        assert not self.pace.sending


def test_one_that_reads_at_once_never_lags() -> None:
    client = Client()
    for _ in range(100):
        client.read(1000, 0.0001)
        client.now += 60.0  # in which there is nothing to read
    assert client.pace.lag == 0.0


def test_one_that_does_not_read_lags_by_all_the_time() -> None:
    client = Client()
    client.pace.begin()
    client.now += 21.0
    assert client.pace.lag == 21.0


def test_one_that_reads_large_answers_as_fast_as_it_must_does_not_lag() -> None:
    client = Client()
    for _ in range(10):
        client.read(64 * SLOWEST_PACE, 63.0)
    assert client.pace.lag == 0.0


def test_one_that_reads_an_answer_from_time_to_time_lags_more_and_more() -> None:
    client = Client()
    for _ in range(10):
        client.read(SLOWEST_PACE, 3.0)
    assert client.pace.lag == 20.0


def test_one_that_reads_at_once_does_not_lag_beside_a_busy_server() -> None:
    client = Client()
    for _ in range(10_000):
        client.read(20, 0.05)  # which is not the client's doing
        client.now += 0.15
    assert client.pace.lag < 0.1


def test_one_that_was_slow_for_a_while_catches_up() -> None:
    client = Client()
    client.read(SLOWEST_PACE, 11.0)
    for _ in range(5):
        client.read(4 * SLOWEST_PACE, 2.0)
    assert client.pace.lag == 0.0
