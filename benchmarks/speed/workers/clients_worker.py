"""A process of clients that generate at once on command, over one connection to our server.

Prints {} when it has connected. Then each line of standard input, {"prompts": [[token ids], ...],
"max_tokens": N}, is answered by a line {"streams": [{"token_ids": [...], "arrivals": [seconds]},
...], "client_cores": X}: X is the seconds of CPU that this process took, a second.

One event loop drives all sessions, which costs a fifth less CPU than a thread for each of them, and
runs no two of them at once: the server's cores stay the server's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from time import perf_counter, process_time
from typing import Any

from benchmarks.speed.timing import Batch, Timing
from stip_client import AsyncClient, AsyncSession
from stip_client.session.generation_options import GenerationParameters


async def main() -> None:
    """Serve commands until standard input ends."""
    target, bundle = sys.argv[1:]
    async with AsyncClient(target, bundle=bundle) as client:
        await client.model_info()
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            answer = await _generate(client, command["prompts"], command["max_tokens"])
            print(json.dumps(answer), flush=True)


async def _generate(
    client: AsyncClient, prompts: Sequence[Sequence[int]], max_tokens: int
) -> dict[str, Any]:
    """Open a session for each prompt, and once all are open generate in all of them."""
    sessions = [await client.session(max_length=len(each) + max_tokens) for each in prompts]
    parameters = GenerationParameters(max_tokens, ignore_eos=True, draft="off")
    started, cpu_started = perf_counter(), process_time()

    async def stream(session: AsyncSession, prompt: Sequence[int]) -> Timing:
        timing = Timing([], [])
        async for piece in session.generate(prompt, parameters):
            timing.arrivals.append(perf_counter() - started)
            timing.token_ids.append(piece.token_id)
        return timing

    streams = await asyncio.gather(*map(stream, sessions, prompts))
    cores = (process_time() - cpu_started) / (perf_counter() - started)
    for session in sessions:
        await session.close()
    return {**asdict(Batch(streams)), "client_cores": cores}


if __name__ == "__main__":
    asyncio.run(main())
