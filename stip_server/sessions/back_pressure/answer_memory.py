"""Bounds what the answers of all sessions together take, until their clients have read them.

On the event loop's thread; knows no gRPC and no MLX.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


class AnswerMemory:
    """`max_bytes` bytes that all sessions share, and `own_bytes` that each has for itself, so that
    none waits for its next row of logits because others do not read theirs.

    An answer takes its room from before it is computed until it has been sent. Those that wait for
    shared room get it in the order in which they came.
    """

    def __init__(self, max_bytes: int, own_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.own_bytes = own_bytes
        # bytes of what is shared, and of what sessions have for themselves
        self.shared_used = 0
        self.own_used = 0
        self._waiting: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """The number of steps that wait for room."""
        return len(self._waiting)

    @property
    def overdrawn(self) -> bool:
        """Whether more is shared than there is: what ended sessions have left unread counts."""
        return self.shared_used > self.max_bytes

    def share(self) -> Share:
        """The part of a new session."""
        return Share(self)

    async def take(self, share: Share, size: int) -> Room:
        """Wait for room for an answer of `size` bytes, at most max_bytes, and take it."""
        if (room := self._own_room(share, size) or self._shared_room(share, size)) is not None:
            return room
        waiting = _Waiting(share, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.room
        except asyncio.CancelledError:
            if not waiting.room.cancelled():  # there was room in this very moment
                waiting.room.result().give_back()
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self.let_in()  # it may have been the one in front
            raise

    def let_in(self) -> None:
        """Give room to those that wait, as far as there is any."""
        for waiting in list(self._waiting):
            if waiting.room.cancelled():  # its take() is about to hear so
                self._waiting.remove(waiting)
            # what is a session's own is in no other's way
            elif (room := self._own_room(waiting.share, waiting.size)) is not None:
                self._waiting.remove(waiting)
                waiting.room.set_result(room)
        while self._waiting:
            first = self._waiting[0]
            if self.shared_used + first.size > self.max_bytes:
                return
            self._waiting.popleft()
            first.room.set_result(Room(first.share, first.size, own=False))

    def _own_room(self, share: Share, size: int) -> Room | None:
        if share.ended or share.own_used + size > self.own_bytes:
            return None
        return Room(share, size, own=True)

    def _shared_room(self, share: Share, size: int) -> Room | None:
        if self._waiting or self.shared_used + size > self.max_bytes:
            return None
        return Room(share, size, own=False)


class Share:
    """What one session takes of the memory, over all streams that hold it one after the other."""

    def __init__(self, memory: AnswerMemory) -> None:
        self.memory = memory
        self.own_used = 0
        self.ended = False

    def end(self) -> None:
        """The session has ended; what it has left unread is now everybody's concern."""
        if not self.ended:
            self.ended = True
            self.memory.own_used -= self.own_used
            self.memory.shared_used += self.own_used


class Room:
    """The room of one answer."""

    def __init__(self, share: Share, size: int, *, own: bool) -> None:
        self._share = share
        self.size = size
        self._own = own
        self._count(size)

    def give_back(self) -> None:
        """The answer has been read, or never will be. Once."""
        self._count(-self.size)
        self._share.memory.let_in()

    def _count(self, size: int) -> None:
        share, memory = self._share, self._share.memory
        if self._own:
            share.own_used += size
        if self._own and not share.ended:
            memory.own_used += size
        else:
            memory.shared_used += size


@dataclass(eq=False)
class _Waiting:
    share: Share
    size: int
    room: asyncio.Future[Room]
