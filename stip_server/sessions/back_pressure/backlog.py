"""Bounds the unanswered steps of one stream: their number, and the bytes of their answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

from stip_server.sessions.back_pressure.answer_memory import AnswerMemory, UnreadAnswers
from stip_server.sessions.back_pressure.reading_pace import ReadingPace


class Backlog:
    """At most `max_steps` unanswered steps, and `max_bytes` of answers. One step always fits.

    `unread` belongs to the stream's session, whose answers are part of `memory`. The stream calls
    `add` for one step at a time.
    """

    def __init__(
        self,
        max_steps: int,
        max_bytes: int,
        memory: AnswerMemory,
        unread: UnreadAnswers,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._memory = memory
        self._unread = unread
        self._pace = ReadingPace(clock)
        self._sizes: deque[int] = deque()  # bytes of each unanswered step's logits, in order
        self._shrunk = asyncio.Event()
        self._waits_for_memory = False

    async def add(self, size: int) -> None:
        """Wait until a step fits whose answer has `size` bytes of logits, and count it."""
        while not self._fits(size):
            self._shrunk.clear()
            await self._shrunk.wait()
        self._waits_for_memory = True
        try:
            await self._memory.reserve(self._unread, size)
        finally:
            self._waits_for_memory = False
        self._sizes.append(size)

    def sending(self) -> None:
        """gRPC has begun to send the oldest step's answer."""
        self._pace.begin()

    def sent(self) -> None:
        """The oldest step's answer has been sent."""
        size = self._sizes.popleft()
        self._pace.end(size)
        self._memory.release(self._unread, size)
        self._shrunk.set()

    def clear(self) -> None:
        """Free all memory of a stream that has ended."""
        while self._sizes:
            self._memory.release(self._unread, self._sizes.popleft())

    @property
    def lag(self) -> float:
        """Seconds by which the client lags behind the slowest pace allowed."""
        return self._pace.lag

    @property
    def waits_for_others(self) -> bool:
        """Whether a step waits for other clients to read, and not for its own."""
        return self._waits_for_memory and not self._pace.sending

    def _fits(self, size: int) -> bool:
        if not self._sizes:
            return True
        return len(self._sizes) < self._max_steps and sum(self._sizes) + size <= self._max_bytes
