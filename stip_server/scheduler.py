"""Decides which steps the engine runs next. Plain Python: no MLX, no threads, no clock of its own.

Steps of one session run in order, one an iteration. An iteration takes the waiting decode steps
(one row) of all sessions, the chunk of a prompt that has waited longest, and further chunks as far
as they fit into its budget of rows: a long prompt stalls running sessions for no more than one
chunk an iteration, and running sessions never keep a prompt waiting for ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from stip_server.steps import Step


class Scheduler:
    """Queues of steps, one a session, in the order in which sessions last became ready."""

    def __init__(self, max_batch_rows: int) -> None:
        self._max_batch_rows = max_batch_rows
        self._queues: OrderedDict[bytes, deque[Step]] = OrderedDict()

    def __len__(self) -> int:
        """The number of steps that wait."""
        return sum(len(queue) for queue in self._queues.values())

    def submit(self, step: Step) -> None:
        """Queue a step behind the earlier steps of its session."""
        self._queues.setdefault(step.session_id, deque()).append(step)

    def cancel(self, session_id: bytes) -> list[Step]:
        """Forget the waiting steps of a session; they are returned."""
        return list(self._queues.pop(session_id, ()))

    def next_batch(self) -> list[Step]:
        """Take the steps of the next iteration, at most one a session; empty when none wait.

        The first prompt is taken whatever its size, so that every step runs at last: an iteration
        may exceed its budget by one chunk.
        """
        heads = [queue[0] for queue in self._queues.values()]
        decodes = [step for step in heads if step.num_rows == 1]
        prompts = [step for step in heads if step.num_rows > 1]
        batch = decodes + prompts[:1]
        rows = sum(step.num_rows for step in batch)
        for step in prompts[1:]:
            if rows + step.num_rows <= self._max_batch_rows:
                batch.append(step)
                rows += step.num_rows
        for step in batch:
            self._take(step)
        return batch

    def _take(self, step: Step) -> None:
        queue = self._queues.pop(step.session_id)
        queue.popleft()
        if queue:
            # to the back: a session with many chunks does not come first twice in a row
            self._queues[step.session_id] = queue
