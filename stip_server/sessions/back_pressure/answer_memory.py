"""Limits the memory that the unread answers of all sessions take together.

Runs on the event loop's thread. Knows no gRPC and no MLX.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(eq=False)
class UnreadAnswers:
    """The small answers of one session that are not sent yet, over all its streams.

    Small are those of at most AnswerMemory.own_bytes. An answer counts from before it is computed
    until it has been sent.
    """

    small_bytes: int = 0
    session_ended: bool = False


class AnswerMemory:
    """Sessions share `max_bytes`; each has `own_bytes` besides for its small answers.

    So no session waits for other clients to read before it gets the next row of logits.
    """

    def __init__(self, max_bytes: int, own_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.own_bytes = own_bytes
        self.used_bytes = 0  # by all unread answers
        self.shared_used_bytes = 0  # the part of them that max_bytes bounds
        self._waiting: deque[object] = deque()
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """The number of steps that wait for memory."""
        return len(self._waiting)

    @property
    def overdrawn(self) -> bool:
        """Whether more is shared than allowed: ended sessions have left unread answers."""
        return self.shared_used_bytes > self.max_bytes

    async def reserve(self, unread: UnreadAnswers, size: int) -> None:
        """Wait until an answer of `size` bytes (at most max_bytes) fits, then count it as unread.

        Steps get shared memory in the order in which they asked for it.
        """
        turn = object()
        self._waiting.append(turn)
        try:
            while not self._fits(unread, size, is_first=self._waiting[0] is turn):
                await self._changed.wait()
            self._add(unread, size)
        finally:
            self._waiting.remove(turn)
            self._wake_waiting()

    def release(self, unread: UnreadAnswers, size: int) -> None:
        """Free the memory of an answer that was sent, or never will be."""
        self._add(unread, -size)
        self._wake_waiting()

    def end_session(self, unread: UnreadAnswers) -> None:
        """Count as shared what a session that has ended leaves unread."""
        shared_before = self._shared_part(unread, unread.small_bytes)
        unread.session_ended = True
        self.shared_used_bytes += unread.small_bytes - shared_before

    def _fits(self, unread: UnreadAnswers, size: int, *, is_first: bool) -> bool:
        growth = self._shared_growth(unread, size)
        return growth == 0 or (is_first and self.shared_used_bytes + growth <= self.max_bytes)

    def _shared_growth(self, unread: UnreadAnswers, size: int) -> int:
        """The shared bytes that an answer takes; negative for one of -size that is released."""
        if abs(size) > self.own_bytes:
            return size
        small_bytes = unread.small_bytes
        return self._shared_part(unread, small_bytes + size) - self._shared_part(
            unread, small_bytes
        )

    def _shared_part(self, unread: UnreadAnswers, small_bytes: int) -> int:
        return max(0, small_bytes - (0 if unread.session_ended else self.own_bytes))

    def _add(self, unread: UnreadAnswers, size: int) -> None:
        self.shared_used_bytes += self._shared_growth(unread, size)
        self.used_bytes += size
        if abs(size) <= self.own_bytes:
            unread.small_bytes += size

    def _wake_waiting(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
