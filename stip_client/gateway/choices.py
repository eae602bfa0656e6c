"""Several replies to one request at once. Knows no HTTP and no OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from stip_client.session.generation import Piece

Pieces = AsyncGenerator[Piece, None]


async def interleaved(
    start: Callable[[int], Pieces], prompts: int, n: int
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of all choices as they come, each with its choice's index.

    start(index) begins a choice; choices of prompt p are p * n to p * n + n - 1. The first of a
    prompt runs alone until it has a piece: then the prompt has been computed, and the others take
    it over. Closing this generator ends all of them; an error of one is an error of all.
    """
    if prompts * n == 1:
        async with aclosing(start(0)) as pieces:
            async for piece in pieces:
                yield 0, piece
        return

    arrived: asyncio.Queue[tuple[int, Piece] | asyncio.Task[None]] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    def begin(index: int) -> None:
        task = asyncio.create_task(follow(index))
        tasks.add(task)
        task.add_done_callback(arrived.put_nowait)

    async def follow(index: int) -> None:
        alone = index % n == 0
        async with aclosing(start(index)) as pieces:
            async for piece in pieces:
                arrived.put_nowait((index, piece))
                if alone:
                    alone = False
                    for other in range(index + 1, index + n):
                        begin(other)

    try:
        for prompt in range(prompts):
            begin(prompt * n)
        while tasks:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                tasks.discard(item)
                item.result()
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
