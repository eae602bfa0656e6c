"""Generates in several sessions at once and times each. A session has a thread and a client."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from stip_client.cli.reply_timing import ReplyTiming
from stip_client.client import Client
from stip_client.errors import ClientError
from stip_client.session.generation_options import Options

# Seconds that the other sessions have to end after one fails.
STOP_SECONDS = 5.0


def generate_at_once(
    clients: Sequence[Client], prompts: Sequence[Sequence[int]], options: Options
) -> list[ReplyTiming]:
    """Generate a reply to every prompt, all at once; at most one prompt a client.

    Raises the error of the first session that fails, and stops the others.
    """
    start, stop = Event(), Event()
    ended: SimpleQueue[tuple[int, ReplyTiming | BaseException]] = SimpleQueue()

    def reply(number: int) -> None:
        try:
            start.wait()
            timing = ReplyTiming()
            pieces = clients[number].generate(prompts[number], **options)
            with closing(pieces):
                for piece in pieces:
                    timing.record(piece)
                    if stop.is_set():
                        break
            ended.put((number, timing))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            ended.put((number, error))

    # daemons: a program may end without waiting for its server
    threads = [
        Thread(target=reply, args=(number,), name=f"session-{number}", daemon=True)
        for number in range(len(prompts))
    ]
    timings: dict[int, ReplyTiming] = {}
    try:
        for thread in threads:
            thread.start()
        start.set()
        for _ in threads:
            number, result = ended.get()
            if isinstance(result, ClientError):
                raise _numbered(result, number, len(threads)) from result
            if isinstance(result, BaseException):
                raise result
            timings[number] = result
    finally:
        stop.set()
        start.set()
        deadline = monotonic() + STOP_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - monotonic()))
    return [timings[number] for number in range(len(threads))]


def _numbered(error: ClientError, number: int, count: int) -> ClientError:
    """The error, with the number of its session."""
    if count == 1:
        return error
    return type(error)(
        f"session {number + 1} of {count}: {error}",
        hint=error.hint,
        code=error.code,
        reason=error.reason,
        retry_after=error.retry_after,
    )
