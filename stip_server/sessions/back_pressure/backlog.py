"""Bounds what one stream may have unanswered: a number of steps, and bytes of logits."""

from __future__ import annotations

import asyncio
from collections import deque

from stip_server.sessions.back_pressure.answer_memory import Room, Share


class Backlog:
    """Room for `max_steps` steps and `max_bytes` bytes of answers, taken from the session's share
    of the memory for answers; one step always fits.

    A client that does not read its answers fills it, and is then no longer read from.
    """

    def __init__(self, max_steps: int, max_bytes: int, share: Share) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._share = share
        # of each step's answer, in order
        self._rooms: deque[Room] = deque()
        self._changed = asyncio.Condition()
        # whether a step waits for what others have not read yet
        self.waits = False

    async def add(self, size: int) -> None:
        """Wait for room for a step that is answered with `size` bytes of logits, and take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(size))
        self.waits = True
        try:
            self._rooms.append(await self._share.memory.take(self._share, size))
        finally:
            self.waits = False

    async def remove(self) -> None:
        """The oldest step has been answered, and its answer was sent."""
        self._rooms.popleft().give_back()
        async with self._changed:
            self._changed.notify()

    def clear(self) -> None:
        """The stream has ended: nothing of it will be sent any more."""
        while self._rooms:
            self._rooms.popleft().give_back()

    def _fits(self, size: int) -> bool:
        if not self._rooms:
            return True
        unread = sum(room.size for room in self._rooms)
        return len(self._rooms) < self._max_steps and unread + size <= self._max_bytes
