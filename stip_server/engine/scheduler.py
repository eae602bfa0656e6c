"""Decides what the engine computes next. Plain Python: no arrays, no threads, an injected clock.

Steps of one session run in order, one an iteration. An iteration computes at most `max_batch_rows`
rows. Short steps (decoding, drafts) come first and whole. Prompts fill the remaining rows, in
chunks; those that have waited longest come first. After an iteration with prompt rows, the next one
has only short steps, if any wait. So there is at most one chunk between two tokens of a running
session, and prompts get at least every second iteration.

Sessions that were answered together come back within a few milliseconds, one by one. The next
iteration is delayed a little for those that were as quick before. Otherwise the first one back
would run alone, the others after it, and they would never share an iteration again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence

from stip_server.engine.step import Chunk, Step

# Rows up to which a step counts as decoding: a token, or a draft of several.
SHORT_ROWS = 16
# One part in this many of an iteration is for prompts, when it is their turn.
PROMPT_SHARE = 4
# The delay of an iteration for sessions that were just answered: a part of the seconds that the
# last one took, and at most MAX_DELAY seconds.
DELAY_SHARE = 0.05
MAX_DELAY = 0.01


class Scheduler:
    """Queues of steps, one a session, in the order in which sessions last became ready."""

    def __init__(self, max_batch_rows: int, clock: Callable[[], float]) -> None:
        self.max_batch_rows = max_batch_rows
        self._clock = clock
        self._queues: OrderedDict[bytes, deque[Step]] = OrderedDict()
        # rows of a session's first step that are in chunks already
        self._rows_begun: dict[bytes, int] = {}
        self._prompts_ran = False
        # when each session's last step was answered, unless it has sent another one since; and how
        # many seconds it took to send the next step the last time
        self._answered: dict[bytes, float] = {}
        self._turnaround: dict[bytes, float] = {}
        self._longest_delay = 0.0

    def __len__(self) -> int:
        """The number of steps of which rows wait."""
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, step: Step) -> None:
        """Queue a step behind the earlier steps of its session."""
        step.submitted = self._clock()
        if (answered := self._answered.pop(step.session_id, None)) is not None:
            self._turnaround[step.session_id] = step.submitted - answered
        self._queues.setdefault(step.session_id, deque()).append(step)

    def cancel(self, session_id: bytes) -> list[Step]:
        """Remove and return the steps of a session of which rows wait."""
        self.stop_expecting(session_id)
        self._rows_begun.pop(session_id, None)
        return list(self._queues.pop(session_id, ()))

    def stop_expecting(self, session_id: bytes) -> None:
        """Delay no iteration for a session, which has ended."""
        self._answered.pop(session_id, None)
        self._turnaround.pop(session_id, None)

    def discard(self, step: Step) -> bool:
        """Remove a step that has failed. Return whether rows of it waited."""
        queue = self._queues.get(step.session_id)
        if queue and queue[0] is step:
            self._finish_first(step.session_id)
            return True
        return False

    def record_iteration(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """Record how long an iteration took, and mark its completed steps as answered."""
        now = self._clock()
        self._longest_delay = min(MAX_DELAY, DELAY_SHARE * seconds)
        for chunk in chunks:
            if chunk.is_last and chunk.step.session_id not in self._queues:
                self._answered[chunk.step.session_id] = now

    def delay(self) -> float:
        """Return the seconds to delay the next iteration, for sessions that will soon be back."""
        if not self._queues:
            return 0.0
        expected = [
            answered
            for session_id, answered in self._answered.items()
            if self._turnaround.get(session_id, 0.0) <= self._longest_delay
        ]
        return max(0.0, max(expected, default=0.0) + self._longest_delay - self._clock())

    def remaining_chunks(self) -> list[Chunk]:
        """Return, for each session that waits, the rows that remain of its first step, in order."""
        return [
            Chunk(queue[0], self._rows_begun.get(session_id, 0), queue[0].num_rows)
            for session_id, queue in self._queues.items()
        ]

    def next_chunks(self, without: Collection[bytes] = ()) -> list[Chunk]:
        """Remove and return the next iteration's chunks: at most one a session, none if none waits.

        Sessions whose ids are in `without` are skipped, and keep their places.
        """
        first_steps = [queue[0] for each, queue in self._queues.items() if each not in without]
        short = [step for step in first_steps if step.num_rows <= SHORT_ROWS]
        prompts = [step for step in first_steps if step.num_rows > SHORT_ROWS]
        if short and self._prompts_ran:
            prompts = []
        free_rows = self.max_batch_rows
        prompt_rows = max(1, free_rows // PROMPT_SHARE) if prompts else 0
        chunks: list[Chunk] = []
        for step in short:
            if step.num_rows <= free_rows - prompt_rows or not (chunks or prompts):
                chunks.append(self._next_chunk(step, step.num_rows))
                free_rows -= step.num_rows
        self._prompts_ran = bool(prompts)
        for step in prompts:
            if free_rows > 0:
                chunks.append(self._next_chunk(step, free_rows))
                free_rows -= chunks[-1].num_rows
        now = self._clock()
        for chunk in chunks:
            if chunk.step.started is None:
                chunk.step.started = now
        return chunks

    def _next_chunk(self, step: Step, max_rows: int) -> Chunk:
        """Remove and return a step's next rows, such that its chunks have about the same size."""
        start = self._rows_begun.get(step.session_id, 0)
        remaining = step.num_rows - start
        chunks = -(-remaining // max_rows)
        chunk = Chunk(step, start, start + -(-remaining // chunks))
        if chunk.is_last:
            self._finish_first(step.session_id)
        else:
            self._rows_begun[step.session_id] = chunk.stop
            # to the back: prompts take turns
            self._queues.move_to_end(step.session_id)
        return chunk

    def _finish_first(self, session_id: bytes) -> None:
        self._rows_begun.pop(session_id, None)
        queue = self._queues.pop(session_id)
        queue.popleft()
        if queue:
            self._queues[session_id] = queue
