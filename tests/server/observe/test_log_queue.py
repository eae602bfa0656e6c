"""Logging never blocks, even if nobody reads the log."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import Any

import pytest

from stip_server.observe.log_queue import FLUSH_TIMEOUT, BoundedQueueHandler
from tests.support.waiting import LONG_PATIENCE, assert_returns

LOG = logging.getLogger("tests.log_queue")


class Reader:
    """Takes lines while it is `reading`, as a pipe does."""

    def __init__(self) -> None:
        self.reading = Event()
        self.read: list[str] = []

    def __call__(self, line: str) -> None:
        assert self.reading.wait(LONG_PATIENCE)
        self.read.append(line)


def logged(to: logging.Handler, act: Callable[[], None]) -> None:
    LOG.addHandler(to)
    try:
        act()
    finally:
        LOG.removeHandler(to)


def record(text: str, *values: object, exc_info: Any = None) -> logging.LogRecord:
    return LOG.makeRecord(LOG.name, logging.WARNING, "", 0, text, values, exc_info)


def test_everything_is_written_in_its_order() -> None:
    reader = Reader()
    reader.reading.set()
    queued = BoundedQueueHandler(reader)
    logged(queued, lambda: [LOG.warning("line %d", number) for number in range(100)])
    queued.flush()
    assert reader.read == [f"line {number}" for number in range(100)]


def test_a_record_says_what_it_said_when_it_was_logged() -> None:
    reader, values = Reader(), [1]
    queued = BoundedQueueHandler(reader)
    logged(queued, lambda: LOG.warning("values %s", values))
    values.append(2)
    reader.reading.set()
    queued.flush()
    assert reader.read == ["values [1]"]


def test_a_record_that_waits_keeps_nothing_of_what_failed() -> None:
    class Held:
        pass

    reader = Reader()
    queued = BoundedQueueHandler(reader)

    def fail() -> weakref.ref[Held]:
        held = Held()
        try:
            raise RuntimeError("injected")
        except RuntimeError:
            # past pytest, which keeps what is logged
            queued.handle(record("failed", exc_info=sys.exc_info()))
        return weakref.ref(held)

    seen = fail()
    gc.collect()
    assert seen() is None
    reader.reading.set()
    queued.flush()
    assert "injected" in reader.read[0]


def test_what_cannot_be_formatted_harms_nobody_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = Reader()
    reader.reading.set()
    queued = BoundedQueueHandler(reader)
    queued.handle(record("%d", "no number"))
    queued.handle(record("next"))
    queued.flush()
    assert reader.read == ["next"]
    assert "no number" in capsys.readouterr().err


def test_whoever_logs_does_not_wait_and_what_is_dropped_is_told() -> None:
    reader = Reader()
    queued = BoundedQueueHandler(reader, capacity=10)
    assert_returns(lambda: logged(queued, lambda: [LOG.warning("line") for _ in range(1000)]))
    reader.reading.set()
    queued.flush()
    written = reader.read.count("line")
    assert 10 <= written <= 11  # one may have been taken already
    assert f"{1000 - written} records were dropped: the log is not read fast enough" in (
        reader.read
    )


def test_the_end_of_the_process_does_not_wait_for_a_reader_for_long() -> None:
    reader = Reader()
    queued = BoundedQueueHandler(reader)
    logged(queued, lambda: LOG.warning("line"))
    began = monotonic()
    assert_returns(queued.flush)
    assert monotonic() - began >= FLUSH_TIMEOUT * 0.9
    assert reader.read == []
    reader.reading.set()
