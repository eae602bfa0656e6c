"""The two sides of a comparison: our server with our client, and mlx-lm. Each in its processes.

Both generate greedily from token ids on the CPU, and compute only while they are asked to: one may
be measured while the other waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stip_client import Client
from tests.benchmark.timing import Timing, time_tokens
from tests.parties import server_process


@dataclass(frozen=True)
class Side:
    """generate(prompt, max_tokens) generates once and times it."""

    name: str
    generate: Callable[[Sequence[int], int], Timing]


@contextmanager
def stip(bundles: Path) -> Iterator[Side]:
    """A server process in float32 behind the BLAS it chooses itself; the public Client here."""
    with (
        server_process(bundles / "server", "--dtype", "float32") as server,
        Client(server.address, bundle=bundles / "client") as client,
    ):

        def generate(prompt: Sequence[int], max_tokens: int) -> Timing:
            pieces = client.generate(prompt, max_new_tokens=max_tokens, ignore_eos=True)
            return time_tokens(piece.token_id for piece in pieces)

        yield Side("stip over gRPC, float32", generate)


@contextmanager
def mlx_lm(checkpoint: Path, *, dtype: str = "float32", blas: str = "auto") -> Iterator[Side]:
    """mlx-lm in a process of its own; dtype "checkpoint" leaves the weights' type as it is."""
    command = [sys.executable, "-m", "tests.benchmark.mlx_lm_worker", str(checkpoint)]
    command += ["--dtype", dtype, "--blas", blas]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def receive() -> Any:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"the mlx-lm worker ended with status {process.wait()}")
            return json.loads(line)

        def generate(prompt: Sequence[int], max_tokens: int) -> Timing:
            if process.stdin is None:
                raise RuntimeError("the mlx-lm worker has no standard input")
            print(
                json.dumps({"prompt": list(prompt), "max_tokens": max_tokens}),
                file=process.stdin,
                flush=True,
            )
            return Timing(**receive())

        try:
            loaded = receive()["blas"]
            described = "its weights' type" if dtype == "checkpoint" else dtype
            yield Side(f"mlx-lm, {described}, {loaded}", generate)
        finally:
            process.kill()
