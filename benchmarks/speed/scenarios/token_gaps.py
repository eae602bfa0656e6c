"""Scenario: how long a session that decodes must wait for its next token while another prefills."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.speed.compared_programs import float32_server
from benchmarks.speed.figures import Figure, Series, Target
from benchmarks.speed.models import QWEN_0_5B, StreamedCheckpoint
from benchmarks.speed.workspace import Workspace
from stip_client import AsyncClient, AsyncSession
from stip_client.session.forward_call import LogitsForm

# the server's --max-batch-rows: the rows that an iteration of its engine computes
CHUNK_ROWS = 512
PREFILL_ROWS = 2048
GAPS = 40
STEPS_ALONE = 8
# what the session that decodes may hold: enough for hundreds of tokens between the prefills
RUNNING_LENGTH = 1024
# what generation asks for when it is greedy
WANTED = LogitsForm("last", top_k=1)


@dataclass
class Measured:
    """Seconds: of single steps and of chunks (by depth) while nothing else ran, and the gaps."""

    steps: list[float] = field(default_factory=list)
    chunks: dict[int, list[float]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)


def gap(workspace: Workspace, _: int) -> Iterator[Figure]:
    """The 95th percentile of the gaps that a prefill falls into: at most a chunk and a step.

    Prefills are repeated until there are 40 gaps; before each, the chunks of such a prefill and
    some steps are timed by the one client alone. A gap counts if any part of the prefill, from
    sending its first rows to its answer, falls into it.
    """
    bundles = workspace.bundles(workspace.checkpoint("0.5b", QWEN_0_5B))
    with float32_server(bundles, "--max-batch-rows", CHUNK_ROWS) as server:
        measured = asyncio.run(measure(server.address, bundles / "client", QWEN_0_5B))
    chunks = [seconds * 1e3 for each in measured.chunks.values() for seconds in each]
    chunk, step = median(chunks), median(measured.steps) * 1e3
    gaps = [seconds * 1e3 for seconds in measured.gaps]
    depths = ", ".join(
        f"{median(each) * 1e3:.0f} ms after {depth}" for depth, each in measured.chunks.items()
    )
    yield Figure(
        scenario="gap",
        name=f"95th percentile gap between tokens while another session prefills {PREFILL_ROWS} "
        f"tokens at 0.5B (target: one chunk of {CHUNK_ROWS} rows + one step)",
        value=float(np.percentile(gaps, 95)),
        unit="ms",
        target=Target("<=", round(chunk + step, 1)),
        ours=Series(f"{len(gaps)} gaps", "ms", gaps),
        baseline=Series(f"a chunk of {CHUNK_ROWS} rows alone", "ms", chunks),
        note=f"a step alone takes {step:.0f} ms, a chunk alone {depths} tokens",
    )


async def measure(address: str, bundle: Path, model: StreamedCheckpoint) -> Measured:
    """Take turns until there are enough gaps; the first turn is the warm-up."""
    prompt = np.random.default_rng(0).integers(0, model.vocab_size, PREFILL_ROWS).tolist()
    async with (
        AsyncClient(address, bundle=bundle) as client,
        await client.session(max_length=RUNNING_LENGTH) as running,
    ):
        decoding = _Decoding(running)
        await decoding.begin(prompt[:16])
        await _turn(client, decoding, prompt, Measured())
        measured = Measured()
        while len(measured.gaps) < GAPS:
            await _turn(client, decoding, prompt, measured)
    return measured


async def _turn(
    client: AsyncClient, decoding: _Decoding, prompt: list[int], measured: Measured
) -> None:
    for _ in range(STEPS_ALONE):
        started = perf_counter()
        await decoding.step()
        measured.steps.append(perf_counter() - started)

    async with await client.session(max_length=len(prompt)) as session:
        for depth in range(0, len(prompt), CHUNK_ROWS):
            started = perf_counter()
            await session.step(prompt[depth : depth + CHUNK_ROWS], LogitsForm("none"))
            measured.chunks.setdefault(depth, []).append(perf_counter() - started)

    async with await client.session(max_length=len(prompt)) as session:
        under_way, prefilled = asyncio.Event(), asyncio.Event()
        arrivals = asyncio.create_task(decoding.until(prefilled, under_way))
        await under_way.wait()
        sent = perf_counter()
        await session.step(prompt, WANTED)
        answered = perf_counter()
        prefilled.set()
        measured.gaps += [
            later - earlier
            for earlier, later in pairwise(await arrivals)
            if later > sent and earlier < answered
        ]


class _Decoding:
    """The session that decodes, greedily."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._token = 0

    async def begin(self, prompt: list[int]) -> None:
        await self._forward(prompt)

    async def step(self) -> None:
        await self._forward([self._token])

    async def until(self, done: asyncio.Event, under_way: asyncio.Event) -> list[float]:
        """Decode until `done`, and the step that runs then to its end: when each token arrived.

        `under_way` is set with the first of them.
        """
        arrivals = []
        while not done.is_set():
            await self.step()
            arrivals.append(perf_counter())
            under_way.set()
        return arrivals

    async def _forward(self, token_ids: list[int]) -> None:
        reply = await self._session.step(token_ids, WANTED)
        if reply.logits is None or reply.logits.indices is None:
            raise RuntimeError("the server sent no logits")
        self._token = int(reply.logits.indices[-1, 0])
