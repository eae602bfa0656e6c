"""The real server with named faults in its engine: python -m tests.support.servers.failpoints.

    python -m tests.support.servers.failpoints fail=13 stall=17:FILE -- --model DIR --port 0

A fault strikes an iteration that holds a step of ROWS rows:

    fail=ROWS             computing it raises an exception
    lose=ROWS             the same, and the caches that took part can no longer be evaluated
    die=ROWS              the engine's thread ends
    stall=ROWS:FILE       computing it waits while FILE exists, without a sign of life

These strike whatever is computed:

    slow=SECONDS          every iteration takes this much longer
    pause=FILE            while FILE exists, iterations wait once as many rows are computed as it
                          says; the engine shows that it lives (see brake.py)
    load                  loading the weights never ends; a line on stderr says that it has begun
    upkeep                the task that expires sessions and reloads tokens fails at once

No faults, but settings that only tests need:

    keepalive=TIME:LIMIT  a client that is silent for TIME seconds is asked, and has LIMIT to answer
    reflection=SECONDS    how long a reflection stream may send no request
    unread=SECONDS        how long a client may leave an answer unread while others wait
    copies                every copy of keys and values counts as a long one
    trace=FILE            every iteration is appended to a file (see engine_trace.py)
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.parties import Server, server_process
from tests.support.servers.engine_trace import Trace

Fault = Callable[[Any], None]
POLL_INTERVAL = 0.002
# Faults that do not strike iterations.
ELSEWHERE = ("load", "keepalive", "reflection", "unread", "upkeep", "copies", "pause")


@contextmanager
def faulty_server(
    bundle: Path, faults: Sequence[str], *arguments: object, **options: Any
) -> Iterator[Server]:
    """A server with faults on a free port; killed afterwards if it still runs."""
    options = {"stderr": subprocess.DEVNULL, **options}
    with server_process(bundle, *arguments, program=faulty_program(*faults), **options) as server:
        yield server


def faulty_program(*faults: str) -> tuple[str, ...]:
    """The arguments of Python for a server with faults, without the server's own."""
    return ("tests.support.servers.failpoints", *faults, "--")


def _install(faults: Sequence[str]) -> None:
    from stip_server import server
    from stip_server.engine import engine
    from stip_server.rpc import listener, open_streams, reflection

    forward = engine.forward
    striking = [_fault(each) for each in faults]
    pauses = [Path(each[6:]) for each in faults if each.startswith("pause=")]
    computed = 0
    for each in faults:
        name, _, value = each.partition("=")
        if name == "keepalive":
            listener.KEEPALIVE_TIME, listener.KEEPALIVE_TIMEOUT = map(float, value.split(":"))
        if name == "copies":
            engine.LARGE_COPY = 0
        if name == "reflection":
            reflection.REQUEST_TIMEOUT = float(value)
        if name == "unread":
            open_streams.READ_TIMEOUT = float(value)

    if "upkeep" in faults:

        async def failing_upkeep(_: Any) -> None:
            raise RuntimeError("injected")

        server._Services.maintain = failing_upkeep  # type: ignore[method-assign]

    def endless_load(*_: Any, **__: Any) -> Any:
        print("loading", file=sys.stderr, flush=True)
        while True:
            time.sleep(1)

    def faulty(model: Any, runnable: Any, alive: Callable[[], None], *progress: Any) -> Any:
        nonlocal computed
        for file in pauses:
            while _limit(file) <= computed:
                alive()
                time.sleep(POLL_INTERVAL)
        for strike in striking:
            strike(runnable)
        results = forward(model, runnable, alive, *progress)
        computed += sum(chunk.num_rows for chunk, _ in runnable)
        return results

    engine.forward = faulty
    if "load" in faults:
        engine.load = endless_load


def _limit(file: Path) -> float:
    """How many rows may be computed: those that a file says, where it exists."""
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return float("inf")


def _fault(text: str) -> Fault:
    name, _, value = text.partition("=")
    if name in ELSEWHERE:
        return lambda _: None
    if name == "slow":
        return lambda _: time.sleep(float(value))
    if name == "trace":
        return Trace(Path(value)).write
    rows, _, file = value.partition(":")

    def strike(runnable: Any) -> None:
        if not any(chunk.step.num_rows == int(rows) for chunk, _ in runnable):
            return
        if name == "stall":
            while Path(file).exists():
                time.sleep(POLL_INTERVAL)
        elif name == "die":
            raise SystemExit("injected")
        else:
            if name == "lose":
                import mlx.core as mx

                for _, cache in runnable:
                    # a matrix without an inverse: evaluating it raises
                    cache._layers = [mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu)]
            raise RuntimeError("injected")

    return strike


def main() -> int:
    """Run stip-server's command line with the faults before "--"."""
    split = sys.argv.index("--")
    from stip_model.operations import blas

    blas.load_blas()  # before the faults import MLX
    blas.load_blas = lambda _: blas.Blas("loaded already")
    _install(sys.argv[1:split])
    from stip_server.cli import main as run

    return run(sys.argv[split + 1 :])


if __name__ == "__main__":
    sys.exit(main())
