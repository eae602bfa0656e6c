"""The real server with named faults in its engine: python -m tests.support.servers.failpoints.

    python -m tests.support.servers.failpoints fail=13 stall=17:6 -- --model DIR --port 0

A fault strikes an iteration that holds a step of so many rows:

    fail=ROWS           computing it raises an exception
    lose=ROWS           the same, and the caches that took part can no longer be evaluated
    die=ROWS            the engine's thread ends
    stall=ROWS:SECONDS  computing it takes so much longer, without a sign of life
    load=SECONDS        loading the weights takes so much longer; tells on stderr that it has begun
    slow=SECONDS        every iteration takes so much longer (no rows)
    careless            what looks after sessions and tokens fails as soon as it begins

No faults, but what a test may need beside them:

    keepalive=SECONDS   a client that is silent is asked after so long, and has as long to answer
    unread=SECONDS      a client may leave an answer unread for so long while others wait
    copies              every copy of keys and values counts as a long one
    trace=FILE          every iteration is appended to a file (see engine_trace.py)
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


@contextmanager
def faulty_server(
    bundle: Path, faults: Sequence[str], *arguments: object, **options: Any
) -> Iterator[Server]:
    """A server with faults on a free port; killed afterwards if it still runs."""
    program = ("tests.support.servers.failpoints", *faults, "--")
    options = {"stderr": subprocess.DEVNULL, **options}
    with server_process(bundle, *arguments, program=program, **options) as server:
        yield server


def _install(faults: Sequence[str]) -> None:
    from stip_server import server
    from stip_server.engine import engine
    from stip_server.rpc import listener, service

    forward = engine.forward
    striking = [_fault(each) for each in faults]
    load_model = engine.load_model
    loading = sum(float(each[5:]) for each in faults if each.startswith("load="))
    for each in faults:
        if each.startswith("keepalive="):
            listener.KEEPALIVE_TIME = listener.KEEPALIVE_TIMEOUT = float(each[10:])
        if each == "copies":
            engine.LARGE_COPY = 0
        if each.startswith("unread="):
            service.READ_TIMEOUT = float(each[7:])

    if "careless" in faults:

        async def careless(_: Any) -> None:
            raise RuntimeError("injected")

        server._House.keep = careless  # type: ignore[method-assign]

    def slow_load(*arguments: Any, **options: Any) -> Any:
        if loading:
            print("loading", file=sys.stderr, flush=True)
            time.sleep(loading)
        return load_model(*arguments, **options)

    def faulty(model: Any, runnable: Any, *progress: Any) -> Any:
        for strike in striking:
            strike(runnable)
        return forward(model, runnable, *progress)

    engine.forward = faulty
    engine.load_model = slow_load


def _fault(text: str) -> Fault:
    name, _, value = text.partition("=")
    if name in ("load", "keepalive", "unread", "careless", "copies"):  # not in an iteration
        return lambda _: None
    if name == "slow":
        return lambda _: time.sleep(float(value))
    if name == "trace":
        return Trace(Path(value)).write
    rows, _, seconds = value.partition(":")

    def strike(runnable: Any) -> None:
        if not any(chunk.step.num_rows == int(rows) for chunk, _ in runnable):
            return
        if name == "stall":
            time.sleep(float(seconds))
        elif name == "die":
            raise SystemExit("injected")
        else:
            if name == "lose":
                import mlx.core as mx

                for _, cache in runnable:
                    # a matrix without an inverse: evaluating it raises
                    cache._arrays = [mx.linalg.inv(mx.zeros((2, 2)), stream=mx.cpu)]
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
