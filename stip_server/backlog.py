"""Bounds what one stream may have unanswered: a number of steps, and bytes of logits."""

from __future__ import annotations

import asyncio


class Backlog:
    """Room for `max_steps` steps and `max_bytes` bytes of answers; one step always fits.

    A client that does not read its answers fills it, and is then no longer read from.
    """

    def __init__(self, max_steps: int, max_bytes: int) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._steps = 0
        self._bytes = 0
        self._changed = asyncio.Condition()

    async def add(self, size: int) -> None:
        """Wait for room for a step that is answered with `size` bytes of logits, and take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._has_room(size))
            self._steps += 1
            self._bytes += size

    async def remove(self, size: int) -> None:
        """A step has been answered."""
        async with self._changed:
            self._steps -= 1
            self._bytes -= size
            self._changed.notify()

    def _has_room(self, size: int) -> bool:
        if not self._steps:
            return True
        return self._steps < self._max_steps and self._bytes + size <= self._max_bytes
