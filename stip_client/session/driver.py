"""How one core serves the synchronous and the asynchronous client.

The core's methods that wait are generators. They yield what a transport's method returns, and are
sent its result: the synchronous transport's methods return results, the asynchronous one's return
awaitables. Whatever an awaitable raises, a cancellation too, is raised where it was yielded.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[Any, Any, T]


def run(steps: Steps[T]) -> T:
    """Run a method of the core over a synchronous transport."""
    result = None
    while True:
        try:
            result = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value


async def run_async(steps: Steps[T]) -> T:
    """Run a method of the core over an asynchronous transport."""
    result, failure = None, None
    while True:
        try:
            awaitable = steps.send(result) if failure is None else steps.throw(failure)
        except StopIteration as end:
            value: T = end.value
            return value
        result = failure = None
        try:
            result = await awaitable
        except BaseException as error:  # noqa: BLE001 - raised again, inside the core
            failure = error
