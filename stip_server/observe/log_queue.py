"""Writes the log on a thread of its own, so that a full pipe never blocks a thread that logs.

logging's QueueHandler and QueueListener do the work. The bounded queue, the flush with a time
limit and the raw writes are ours: without them a pipe that nobody reads takes memory or blocks.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from threading import Lock

# Lines that may wait: about 4 MB, or 40 MB if all are errors with tracebacks.
CAPACITY = 10_000
# Seconds to write the last lines when the process ends.
FLUSH_TIMEOUT = 1.0


class BoundedQueueHandler(QueueHandler):
    """Queues formatted lines for `write`. Drops lines if the queue is full, and logs how many."""

    queue: Queue[logging.LogRecord]

    def __init__(self, write: Callable[[str], None], capacity: int = CAPACITY) -> None:
        super().__init__(Queue(capacity))
        self._write = write
        self._dropped = 0
        # Not the handler's own lock: logging holds that one at exit, while it waits for flush().
        self._dropped_lock = Lock()
        _Listener(self.queue, self._write_line).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record whose message is the formatted line."""
        try:
            self.queue.put_nowait(record)
        except Full:
            with self._dropped_lock:
                self._dropped += 1

    def flush(self) -> None:
        """Wait until all lines are written, at most FLUSH_TIMEOUT seconds."""
        with self.queue.all_tasks_done:
            self.queue.all_tasks_done.wait_for(
                lambda: not self.queue.unfinished_tasks, FLUSH_TIMEOUT
            )

    def _write_line(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())
        if self._dropped:
            self._write(self.format(self._dropped_record()))

    def _dropped_record(self) -> logging.LogRecord:
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, 0
        text = f"{dropped} records were dropped: the log is not read fast enough"
        logger = logging.getLogger(__name__)
        return logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)


class _Listener(QueueListener):
    """Calls a function, not a Handler: at exit, logging waits for the lock of every Handler."""

    def __init__(
        self, queue: Queue[logging.LogRecord], write: Callable[[logging.LogRecord], None]
    ) -> None:
        super().__init__(queue)
        self._write = write

    def handle(self, record: logging.LogRecord) -> None:
        self._write(record)


def write_in_background() -> None:
    """Replace the root logger's handlers with handlers that write to stderr on their own thread."""
    write = partial(_write_to, os.dup(sys.stderr.fileno()))
    _discard_when_full(sys.stderr.fileno())
    root = logging.getLogger()
    queued = []
    for handler in root.handlers:
        queued.append(BoundedQueueHandler(write))
        queued[-1].setFormatter(handler.formatter)
        queued[-1].filters = handler.filters
    root.handlers[:] = queued


def _write_to(descriptor: int, line: str) -> None:
    # Not through sys.stderr: its lock would be held while the pipe is full, and block the exit.
    unwritten = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):  # the reader is gone
        while unwritten:
            unwritten = unwritten[os.write(descriptor, unwritten) :]


def _discard_when_full(descriptor: int) -> None:
    """Discard what gRPC itself writes to a full pipe: its threads, and all connections, would wait.

    The pipe is opened anew, since other processes may share the original one.
    """
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        with suppress(OSError):  # macOS, or a pipe of another user: there gRPC waits
            fresh = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(fresh, descriptor)
            os.close(fresh)
