"""Decides what the engine computes next. Plain Python: no MLX, no threads, an injected clock.

Steps of one session run in order, one an iteration. An iteration computes at most `max_batch_rows`
rows. Short steps (decoding, drafts) come first and whole; prompts fill what is left, in chunks,
those that have waited longest first. After an iteration with prompt rows comes one of short steps
alone, where any wait: so between two tokens of a running session lies at most one chunk, and a
prompt gets at least every second iteration.

Sessions that were answered together come back within a few milliseconds, one by one. The next
iteration is held for them a little, where they have been as quick before: otherwise the first one
back would run alone, the others after it, and they would never meet again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence

from stip_server.engine.step import Chunk, Step

# Rows up to which a step counts as decoding: a token, or a draft of several.
SHORT_ROWS = 16
# The part of an iteration that short steps leave to prompts, where it is the prompts' turn.
PROMPT_SHARE = 4
# How long an iteration is held for sessions that were just answered: a part of what the last one
# took, and seconds at most.
HOLD_SHARE = 0.05
MAX_HOLD = 0.01


class Scheduler:
    """Queues of steps, one a session, in the order in which sessions last became ready."""

    def __init__(self, max_batch_rows: int, clock: Callable[[], float]) -> None:
        self.max_batch_rows = max_batch_rows
        self._clock = clock
        self._queues: OrderedDict[bytes, deque[Step]] = OrderedDict()
        # rows of a session's first step that have been handed out
        self._begun: dict[bytes, int] = {}
        self._prompts_ran = False
        # when each session's last step was answered, unless it has sent another one since, and the
        # seconds that it last took to do so
        self._answered: dict[bytes, float] = {}
        self._turnaround: dict[bytes, float] = {}
        self._hold = 0.0

    def __len__(self) -> int:
        """The number of steps that wait, or of which rows still wait."""
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, step: Step) -> None:
        """Queue a step behind the earlier steps of its session."""
        step.submitted = self._clock()
        if (answered := self._answered.pop(step.session_id, None)) is not None:
            self._turnaround[step.session_id] = step.submitted - answered
        self._queues.setdefault(step.session_id, deque()).append(step)

    def cancel(self, session_id: bytes) -> list[Step]:
        """Drop the steps of a session that wait, or of which rows wait; they are returned."""
        self.forget(session_id)
        self._begun.pop(session_id, None)
        return list(self._queues.pop(session_id, ()))

    def forget(self, session_id: bytes) -> None:
        """The session is not expected back: once it is cancelled, and once no step of it runs."""
        self._answered.pop(session_id, None)
        self._turnaround.pop(session_id, None)

    def drop(self, step: Step) -> bool:
        """Forget what is left of a step that has failed; whether anything was left."""
        queue = self._queues.get(step.session_id)
        if queue and queue[0] is step:
            self._finish_first(step.session_id)
            return True
        return False

    def computed(self, batch: Sequence[Chunk], seconds: float) -> None:
        """The last iteration took so long, and the steps of it that are complete get answers."""
        now = self._clock()
        self._hold = min(MAX_HOLD, HOLD_SHARE * seconds)
        for chunk in batch:
            if chunk.is_last and chunk.step.session_id not in self._queues:
                self._answered[chunk.step.session_id] = now

    def hold(self) -> float:
        """Seconds to hold the next iteration for sessions that will be back at once."""
        if not self._queues:
            return 0.0
        expected = [
            answered
            for session_id, answered in self._answered.items()
            if self._turnaround.get(session_id, 0.0) <= self._hold
        ]
        return max(0.0, max(expected, default=0.0) + self._hold - self._clock())

    def first_rest(self) -> list[Chunk]:
        """What is left of the first step of each session that waits, those in front first."""
        return [
            Chunk(queue[0], self._begun.get(session_id, 0), queue[0].num_rows)
            for session_id, queue in self._queues.items()
        ]

    def next_batch(self, without: Collection[bytes] = ()) -> list[Chunk]:
        """Take the next iteration's chunks, at most one a session; empty when nothing waits.

        The sessions of the ids in `without` are passed over, and keep their places.
        """
        heads = [queue[0] for each, queue in self._queues.items() if each not in without]
        short = [step for step in heads if step.num_rows <= SHORT_ROWS]
        prompts = [step for step in heads if step.num_rows > SHORT_ROWS]
        if short and self._prompts_ran:
            prompts = []
        room = self.max_batch_rows
        share = max(1, room // PROMPT_SHARE) if prompts else 0
        batch: list[Chunk] = []
        for step in short:
            if step.num_rows <= room - share or not (batch or prompts):
                batch.append(self._take(step, step.num_rows))
                room -= step.num_rows
        self._prompts_ran = bool(prompts)
        for step in prompts:
            if room > 0:
                batch.append(self._take(step, room))
                room -= batch[-1].num_rows
        now = self._clock()
        for chunk in batch:
            if chunk.step.started is None:
                chunk.step.started = now
        return batch

    def _take(self, step: Step, room: int) -> Chunk:
        """The step's next rows, as far as there is room, in chunks of about the same size."""
        start = self._begun.get(step.session_id, 0)
        left = step.num_rows - start
        chunks = -(-left // room)
        chunk = Chunk(step, start, start + -(-left // chunks))
        if chunk.is_last:
            self._finish_first(step.session_id)
        else:
            self._begun[step.session_id] = chunk.stop
            # to the back: prompts take turns
            self._queues.move_to_end(step.session_id)
        return chunk

    def _finish_first(self, session_id: bytes) -> None:
        self._begun.pop(session_id, None)
        queue = self._queues.pop(session_id)
        queue.popleft()
        if queue:
            self._queues[session_id] = queue
