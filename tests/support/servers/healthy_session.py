"""A session that nothing is wrong with, next to whatever else happens to its server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Manifest
from tests.support.waiting import PATIENCE
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
)

ROWS = (np.arange(4 * 60).reshape(4, 60) % 64 / 64).astype(np.float16)
# Seconds: the tests next to which it runs may take this long on a busy machine.
DEADLINE = 3600.0
# Rounding depends on what a step is batched with.
TOLERANCE = 1e-5


class HealthySession:
    """Decodes the same few tokens over and over, one at a time, and compares the answers.

    `rounds` counts how often they were right.
    """

    def __init__(self, address: str, manifest: Manifest) -> None:
        self._address = address
        self._manifest = manifest
        self.rounds = 0
        self.alone = Event()
        self.ended = Event()

    def run(self, stop: Event) -> None:
        """Decode until told to stop; what comes before `alone` is set is what it gets alone."""
        try:
            with (
                connection(self._address) as channel,
                WireStream(channel, deadline=DEADLINE) as stream,
            ):
                stream.send(open_request(self._manifest, max_length=len(ROWS))).opened()
                expected = self._round(stream)
                self.alone.set()
                while not stop.wait(0.01):
                    found = self._round(stream)
                    tolerance = TOLERANCE * np.abs(expected).max()
                    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
                    assert (found.argmax(-1) == expected.argmax(-1)).all()
                    self.rounds += 1
        finally:
            self.alone.set()
            self.ended.set()

    def wait_for_rounds(self, count: int) -> None:
        """Wait until it has gone well so many times more."""
        aim, end = self.rounds + count, monotonic() + PATIENCE
        while self.rounds < aim and not self.ended.wait(0.01):
            assert monotonic() < end, "the healthy session does not get on"

    def _round(self, stream: WireStream) -> NDArray[np.float32]:
        logits = []
        for start in range(len(ROWS)):
            stream.send(step_request(start, ROWS[start : start + 1]))
            logits.append(logits_of(stream.result()))
        assert np.isfinite(logits).all()
        return np.concatenate(logits)


@contextmanager
def healthy_session(address: str, manifest: Manifest) -> Iterator[HealthySession]:
    """A session that decodes as long as the block runs. Raises where it was harmed."""
    session, stop = HealthySession(address, manifest), Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, stop)
        try:
            assert session.alone.wait(PATIENCE)
            yield session
            session.wait_for_rounds(2)
        finally:
            stop.set()
        running.result()
