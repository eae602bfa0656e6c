"""Bounds what one stream may have unanswered: a number of steps, and bytes of logits."""

from __future__ import annotations

import asyncio
from collections import deque

from stip_server.answers import AnswerMemory


class Backlog:
    """Room for `max_steps` steps and `max_bytes` bytes of answers, which are taken from the memory
    that all streams share; one step always fits.

    A client that does not read its answers fills it, and is then no longer read from.
    """

    def __init__(self, max_steps: int, max_bytes: int, memory: AnswerMemory) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._memory = memory
        # bytes of each step's answer, in order
        self._sizes: deque[int] = deque()
        self._room = asyncio.Condition()
        # whether a step waits for what other streams take of the memory
        self.waits = False

    async def add(self, size: int) -> None:
        """Wait for room for a step that is answered with `size` bytes of logits, and take it."""
        async with self._room:
            await self._room.wait_for(lambda: self._fits(size))
        self.waits = True
        try:
            await self._memory.take(size)
        finally:
            self.waits = False
        self._sizes.append(size)

    async def remove(self) -> None:
        """The oldest step has been answered, and its answer was sent."""
        self._memory.give_back(self._sizes.popleft())
        async with self._room:
            self._room.notify()

    def clear(self) -> None:
        """The stream has ended: nothing of it will be sent any more."""
        self._memory.give_back(sum(self._sizes))
        self._sizes.clear()

    def _fits(self, size: int) -> bool:
        if not self._sizes:
            return True
        return len(self._sizes) < self._max_steps and sum(self._sizes) + size <= self._max_bytes
