"""Time-outs for asyncio that lose no cancellation, on every Python that is supported."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any


class Timeout:
    """asyncio.timeout, which Python 3.10 does not have. Raises TimeoutError.

    asyncio.wait_for makes a task of everything it waits for, and before Python 3.12 it loses a
    cancellation that comes together with the result.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # a coroutine is awaited in one
        self._task: asyncio.Task[Any] = task
        self._cancelled = getattr(task, "cancelling", int)()  # before, and not by this
        self._expiry = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._expiry.cancel()
        if self._expired:
            # somebody else may have cancelled the task as well
            cancelled = getattr(self._task, "uncancel", int)()
            if kind is asyncio.CancelledError and cancelled <= self._cancelled:
                raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
