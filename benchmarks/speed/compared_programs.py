"""The two sides of a comparison: our server with our client, and mlx-lm. Each in its processes.

Both generate greedily from token ids on the CPU, and compute only while they are asked to: one may
be measured while the other waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.timing import Batch, Timing, time_tokens
from stip_client import Client
from tests.support.parties import Server, server_process

STIP = "stip over gRPC, float32"


@dataclass(frozen=True)
class Side:
    """generate(prompt, max_tokens) generates once and times it."""

    name: str
    generate: Callable[[Sequence[int], int], Timing]


@dataclass(frozen=True)
class BatchSide:
    """generate(prompts, max_tokens) generates a reply to each prompt, all at once.

    client_cores tells how many cores the clients kept busy meanwhile, one value a call.
    """

    name: str
    generate: Callable[[Sequence[Sequence[int]], int], Batch]
    client_cores: list[float]


def float32_server(bundles: Path, *flags: object) -> AbstractContextManager[Server]:
    """A server process in float32 behind the BLAS it chooses itself."""
    return server_process(bundles / "server", "--dtype", "float32", *flags)


@contextmanager
def stip(bundles: Path) -> Iterator[Side]:
    """A server process, and the public Client here."""
    with (
        float32_server(bundles) as server,
        Client(server.address, bundle=bundles / "client") as client,
    ):

        def generate(prompt: Sequence[int], max_tokens: int) -> Timing:
            # a step a token, as the other side does it
            pieces = client.generate(
                prompt, max_new_tokens=max_tokens, ignore_eos=True, draft="off"
            )
            return time_tokens(piece.token_id for piece in pieces)

        yield Side(STIP, generate)


@contextmanager
def stip_batch(bundles: Path) -> Iterator[BatchSide]:
    """A server process, and the sessions of a public AsyncClient in another."""
    with (
        float32_server(bundles) as server,
        _worker("clients_worker", server.address, bundles / "client") as worker,
    ):
        worker.receive()
        client_cores: list[float] = []

        def generate(prompts: Sequence[Sequence[int]], max_tokens: int) -> Batch:
            answer = worker.ask({"prompts": list(map(list, prompts)), "max_tokens": max_tokens})
            client_cores.append(answer["client_cores"])
            return Batch([Timing(**stream) for stream in answer["streams"]])

        yield BatchSide(STIP, generate, client_cores)


@contextmanager
def mlx_lm(checkpoint: Path, *, dtype: str = "float32", blas: str = "auto") -> Iterator[Side]:
    """mlx-lm in a process of its own; dtype "checkpoint" leaves the weights' type as it is."""
    options = ("--dtype", dtype, "--blas", blas)
    with _worker("mlx_lm_worker", checkpoint, *options) as worker:

        def generate(prompt: Sequence[int], max_tokens: int) -> Timing:
            return Timing(**worker.ask({"prompt": list(prompt), "max_tokens": max_tokens}))

        loaded = worker.receive()["blas"]
        described = "its weights' type" if dtype == "checkpoint" else dtype
        yield Side(f"mlx-lm, {described}, {loaded}", generate)


@contextmanager
def mlx_lm_batch(checkpoint: Path) -> Iterator[BatchSide]:
    """mlx-lm's batch generator in a process of its own, in float32 behind the same BLAS as ours."""
    options = ("--dtype", "float32", "--blas", "auto")
    with _worker("mlx_lm_batch_worker", checkpoint, *options) as worker:

        def generate(prompts: Sequence[Sequence[int]], max_tokens: int) -> Batch:
            answer = worker.ask({"prompts": list(map(list, prompts)), "max_tokens": max_tokens})
            return Batch([Timing(**stream) for stream in answer["streams"]])

        loaded = worker.receive()["blas"]
        yield BatchSide(f"mlx-lm's batch generator, float32, {loaded}", generate, [])


class _Worker:
    """A process that answers each line of its standard input by one of its output, in JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: Any) -> Any:
        """Send a command and wait for its answer. Raises RuntimeError if the process has ended."""
        if self._process.stdin is None:
            raise RuntimeError("the worker has no standard input")
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self.receive()

    def receive(self) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)


@contextmanager
def _worker(module: str, *arguments: object) -> Iterator[_Worker]:
    command = [sys.executable, "-m", f"benchmarks.speed.{module}", *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Worker(process)
        finally:
            process.kill()
