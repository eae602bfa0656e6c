"""Lets a thread of its own write the log: nobody who logs waits for whoever reads it.

A pipe that is not read would otherwise hold up the event loop, and with it every answer.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Full, Queue
from threading import Lock, Thread

# Lines that may wait; about 4 MB, of errors with their tracebacks ten times as much.
CAPACITY = 10_000
# Seconds that the last ones get when the process ends.
FLUSH_TIMEOUT = 1.0


class QueuedHandler(logging.Handler):
    """Passes lines on to `write`. Drops those that find no room, and tells how many."""

    def __init__(self, write: Callable[[str], None], capacity: int = CAPACITY) -> None:
        super().__init__()
        self._write = write
        self._lines: Queue[str] = Queue(capacity)
        self._dropped = 0
        # not the handler's own, which is held while the process ends and waits for flush()
        self._counting = Lock()
        Thread(target=self._run, name="stip-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line: the record would keep what its traceback refers to."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - told as logging's own handlers do
            self.handleError(record)
            return
        try:
            self._lines.put_nowait(line)
        except Full:
            with self._counting:
                self._dropped += 1

    def flush(self) -> None:
        """Wait until all is written, for a while."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks, FLUSH_TIMEOUT
            )

    def _run(self) -> None:
        while True:
            self._write(self._lines.get())
            if self._dropped:
                self._write(self.format(self._told()))
            self._lines.task_done()

    def _told(self) -> logging.LogRecord:
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        text = f"{dropped} records were dropped: the log is not read fast enough"
        logger = logging.getLogger(__name__)
        return logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)


def write_in_background() -> None:
    """From now on, let a thread write to stderr what the root logger's handlers write there."""
    write = partial(_write_line, os.dup(sys.stderr.fileno()))
    _never_wait_for_a_pipe(sys.stderr.fileno())
    root = logging.getLogger()
    queued = []
    for handler in root.handlers:
        queued.append(QueuedHandler(write))
        queued[-1].setFormatter(handler.formatter)
        queued[-1].filters = handler.filters
    root.handlers[:] = queued


def _write_line(descriptor: int, line: str) -> None:
    """Not through sys.stderr: its lock would be held while the pipe is full, also as we end."""
    rest = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):  # nobody will ever read it
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _never_wait_for_a_pipe(descriptor: int) -> None:
    """Let what gRPC writes for itself be lost where a pipe is full: its threads would wait, and
    with them every connection. Opened anew, since others may share the pipe that we were given."""
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with suppress(OSError):  # macOS, or a pipe of another user: it waits there
            fresh = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(fresh, descriptor)
            os.close(fresh)
