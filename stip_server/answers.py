"""Bounds what the answers of all streams together take, until their clients have read them.

On the event loop's thread; knows no gRPC and no MLX.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

# Bytes up to which an answer counts as small: the top k of a vocabulary, not a row of it.
SMALL = 64 * 1024
# What larger ones leave free for small ones, so that generating does not wait for readers of rows.
LARGE_SHARE = 0.75


@dataclass(eq=False)
class _Waiting:
    size: int
    room: asyncio.Future[None]


class AnswerMemory:
    """Room for `max_bytes` bytes of answers that are computed, wait to be sent, or are being sent.

    Those that wait get room in the order in which they came, small ones and larger ones apart.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._small: deque[_Waiting] = deque()
        self._large: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """The number of steps that wait for room."""
        return len(self._small) + len(self._large)

    async def take(self, size: int) -> None:
        """Wait for room for an answer of `size` bytes, at most largest_answer(), and take it."""
        queue = self._small if size <= SMALL else self._large
        if size == 0 or (not queue and self._fits(size)):
            self.used += size
            return
        waiting = _Waiting(size, asyncio.get_running_loop().create_future())
        queue.append(waiting)
        try:
            await waiting.room
        except asyncio.CancelledError:
            if not waiting.room.cancelled():  # there was room in this very moment
                self.give_back(size)
            elif waiting in queue:
                queue.remove(waiting)
                self._let_in()  # it may have been the one in front
            raise

    def give_back(self, size: int) -> None:
        """Answers of so many bytes have been read, or never will be."""
        self.used -= size
        self._let_in()

    def _fits(self, size: int) -> bool:
        most = self.max_bytes if size <= SMALL else largest_answer(self.max_bytes)
        return self.used + size <= most

    def _let_in(self) -> None:
        for queue in (self._small, self._large):
            while queue and self._fits(queue[0].size):
                waiting = queue.popleft()
                if not waiting.room.cancelled():  # else its take() is about to hear so
                    self.used += waiting.size
                    waiting.room.set_result(None)


def largest_answer(max_bytes: int) -> int:
    """Bytes of the largest answer for which a memory of `max_bytes` can have room."""
    return int(max_bytes * LARGE_SHARE)
