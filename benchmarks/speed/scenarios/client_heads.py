"""Scenarios about where logits are made: the client's own head, and a sealed vocabulary."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np

from benchmarks.speed.figures import Figure, Series, Skipped, Target
from benchmarks.speed.models import QWEN_3B
from benchmarks.speed.workspace import Workspace
from stip_client.bundle.sealed_vocabulary import SealedVocabulary
from stip_client.transport.wire_tensors import LogitsArrays
from stip_keys.masks.derivation import permutation

MB = 10**6
GUESSES = 7
ROUNDS = 100
# The head of a 3B model on one layer: the layers are not run.
HEAD_ONLY = replace(QWEN_3B, num_hidden_layers=1, shards=1)


def client_head(workspace: Workspace, repeats: int) -> Iterator[Figure | Skipped]:
    """Logits from final hidden states at the client, 151,936 x 2,048 in bfloat16."""
    checkpoint = workspace.checkpoint("head", HEAD_ONLY)
    bundles = workspace.bundles(checkpoint, "--head", "client")
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.workers.head_worker",
        str(bundles / "client"),
    ]
    done = subprocess.run(
        [*command, str(10 * repeats), "1", str(1 + GUESSES)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    shape = f"{HEAD_ONLY.vocab_size:,} x {HEAD_ONLY.hidden_size:,}"
    # guesses are worth it where eight rows cost no more than four steps
    for rows, bound in ((1, 60.0), (1 + GUESSES, 240.0)):
        series = Series(f"{10 * repeats} steps", "ms", told["milliseconds"][str(rows)])
        what = "a token" if rows == 1 else f"{rows} rows at once"
        yield Figure(
            scenario="client-head",
            name=f"head at the client, {shape} in bfloat16, {what}",
            value=series.median,
            unit="ms",
            target=Target("<=", bound),
            ours=series,
            note=f"the fastest took {min(series.values):.3g} ms",
        )
    if told["private_bytes"] is None:
        yield Skipped("client-head", "memory beside the map", "this system does not tell it")
        return
    memory = Series("ClientBundle and its head", "MB", [told["private_bytes"] / MB])
    yield Figure(
        scenario="client-head",
        name=f"head at the client, {shape}: resident memory beside the map",
        value=memory.median,
        unit="MB",
        target=Target("<=", 200),
        ours=memory,
    )


def sealed(_: Workspace, __: int) -> Iterator[Figure]:
    """Opening the answers of a sealed vocabulary of 151,936, and deriving its order once."""
    size = QWEN_3B.vocab_size
    draw = np.random.default_rng(0)
    row = draw.standard_normal((1, size)).astype(np.float32)
    indices = draw.choice(size, (1, 128)).astype(np.int32)
    whole = LogitsArrays(row)
    largest = LogitsArrays(np.take(row[0], indices), indices, np.zeros(1, np.float32))
    order = permutation(bytes(32), size)
    vocabulary = SealedVocabulary(order)
    for name, bound, work in (
        ("opening a whole row", 1.0, lambda: vocabulary.open(whole)),
        ("opening the 128 largest", 1.0, lambda: vocabulary.open(largest)),
        ("deriving the order, once a bundle", 100.0, lambda: permutation(bytes(32), size)),
    ):
        series = Series(f"{ROUNDS} times", "ms", _timed(work))
        yield Figure(
            scenario="sealed",
            name=f"sealed vocabulary of {size:,}: {name}",
            value=series.median,
            unit="ms",
            target=Target("<=", bound),
            ours=series,
        )


def _timed(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(ROUNDS):
        started = perf_counter()
        work()
        taken.append((perf_counter() - started) * 1e3)
    return taken
