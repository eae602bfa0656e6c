"""Scenario: what the gateway adds to each token, beyond the client that it is made of."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.speed.compared_programs import float32_server
from benchmarks.speed.figures import UNSTEADY, Figure, Series, Target
from benchmarks.speed.scenarios.decode_and_prefill import PACKAGED_DEMO
from benchmarks.speed.timing import Timing
from benchmarks.speed.workspace import Workspace
from stip_client import AsyncClient
from tests.support.gateways import Gateway, gateway_process

PROMPT = 16
NEW = 300
# Sampled with one seed: both sides choose the same tokens, and hardly any repeats what was said,
# so that nearly every token is a step of its own.
SEED = 1
MODEL = "demo"


def gateway(workspace: Workspace, repeats: int) -> Iterator[Figure]:
    """The median gap between a stream's events, less the gap between the pieces of an AsyncClient.

    The same reply of the demo model from the same server, in turns; the events are read by a plain
    HTTP client, so that no application's own work is counted.
    """
    bundles = workspace.bundles(PACKAGED_DEMO)
    with float32_server(bundles) as server, TemporaryDirectory() as folder:
        arguments = (server.address, bundles / "client", Path(folder), "--model-name", MODEL)
        with gateway_process(*arguments) as gateway:
            # what a test process has imported would make its garbage collections long
            gc.collect()
            gc.freeze()
            runs = asyncio.run(measure(server.address, bundles / "client", gateway, repeats))
    ours = Series("through the gateway", "ms/token", [_gap(through) for through, _ in runs])
    baseline = Series("AsyncClient alone", "ms/token", [_gap(direct) for _, direct in runs])
    mean = median((through.per_token - direct.per_token) * 1e3 for through, direct in runs)
    differences = [a - b for a, b in zip(ours.values, baseline.values, strict=True)]
    yield Figure(
        scenario="gateway",
        name="what the gateway adds to a token, demo model",
        value=ours.median - baseline.median,
        unit="ms",
        target=Target("<=", 2),
        ours=ours,
        baseline=baseline,
        spread=(min(differences), max(differences)),
        note=f"{mean:.2f} ms in the mean over the tokens of a reply"
        + ("" if ours.steady and baseline.steady else UNSTEADY),
    )


async def measure(
    address: str, bundle: Path, gateway: Gateway, repeats: int
) -> list[tuple[Timing, Timing]]:
    """The same reply through the gateway and directly, in turns after one warm-up of each."""
    async with AsyncClient(address, bundle=bundle) as client:
        vocab_size = client.bundle.manifest.model.vocab_size
        prompt = np.random.default_rng(0).integers(0, vocab_size, PROMPT).tolist()
        runs = []
        for _ in range(1 + repeats):
            through = await asyncio.to_thread(_through, gateway, prompt)
            runs.append((through, await _directly(client, prompt)))
    return runs[1:]


async def _directly(client: AsyncClient, prompt: list[int]) -> Timing:
    started = perf_counter()
    timing = Timing([], [])
    options: dict[str, Any] = {"max_new_tokens": NEW, "temperature": 1.0, "seed": SEED}
    async for piece in client.generate(prompt, ignore_eos=True, keep=True, **options):
        timing.arrivals.append(perf_counter() - started)
        timing.token_ids.append(piece.token_id)
    return timing


def _through(gateway: Gateway, prompt: list[int]) -> Timing:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": NEW, "temperature": 1, "seed": SEED}
    body |= {"ignore_eos": True, "stream": True}
    connection = gateway.connection()
    started = perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body).encode())
    response = connection.getresponse()
    timing = Timing([], [])
    while line := response.readline():
        if line.startswith(b"data: {"):
            timing.arrivals.append(perf_counter() - started)
    connection.close()
    if response.status != 200 or len(timing.arrivals) < NEW // 2:
        raise RuntimeError(f"status {response.status}, {len(timing.arrivals)} events")
    return timing


def _gap(timing: Timing) -> float:
    return median(later - earlier for earlier, later in pairwise(timing.arrivals)) * 1e3
