"""python -m benchmarks.soak: clients that come and go against one server of the demo model.

Fails for a status that the protocol does not document or that does not fit the request, for a token
other than the one that the same prompt gives alone, for memory that grows, and for a crash.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from typing import Any

from benchmarks.soak.memory import Memory
from benchmarks.soak.statuses import documented
from benchmarks.soak.tally import Tally
from benchmarks.soak.texts import draw_texts
from benchmarks.soak.visitor import Visitor
from stip.v1.inference_pb2 import GetModelInfoRequest, Load
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.parties import Server, convert, server_process
from tests.support.wire.requests import connection

DEMO_MODEL = Path(str(resources.files("stip_client"))) / "cli" / "demo_model"
SESSION_TTL = 5
SERVER_FLAGS = ("--kv-memory", "64MiB", "--session-ttl", SESSION_TTL, "--max-sessions", 64)
# What a server gets to notice that the last sessions have expired, after their time to live.
PATIENCE = 10.0
SHUTDOWN_TIMEOUT = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 if anything failed."""
    arguments = _parser().parse_args(argv)
    tally, memory = Tally(documented()), Memory()
    with tempfile.TemporaryDirectory(prefix="stip-soak-") as folder:
        bundles = convert(DEMO_MODEL, Path(folder) / "bundles")
        with server_process(bundles / "server", *SERVER_FLAGS) as server:
            log: list[str] = []
            # read all the time: a full pipe would hold the server up
            reader = Thread(target=lambda: log.extend(server.process.stderr or ()))
            reader.start()
            _run(arguments, server, ClientBundle(bundles / "client"), tally, memory)
            _shut_down(server, tally)
            reader.join()
    if any("Traceback" in text for text in log):
        tally.fail(f"the server printed a traceback: {''.join(log)}")
    for failure in memory.failures():
        tally.fail(failure)
    result = _result(arguments, tally, memory)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(_summary(result))
    return 1 if tally.failures else 0


def _run(
    arguments: argparse.Namespace,
    server: Server,
    bundle: ClientBundle,
    tally: Tally,
    memory: Memory,
) -> None:
    with connection(server.address) as channel:
        texts = draw_texts(channel, bundle, Random(f"texts {arguments.seed}"))
    visitors = [
        Visitor(
            server.address,
            bundle.manifest,
            texts,
            tally,
            seed=f"visitor {arguments.seed} {number}",
            hoards=number == 0,
        )
        for number in range(arguments.clients)
    ]
    print(f"{arguments.clients} clients for {arguments.minutes:g} minutes", file=sys.stderr)
    stop = Event()
    watcher = Thread(target=memory.watch, args=(server.process.pid, stop))
    with ThreadPoolExecutor(arguments.clients) as pool:
        watcher.start()
        running = [pool.submit(visitor.run, stop) for visitor in visitors]
        end = monotonic() + 60 * arguments.minutes
        while monotonic() < end and server.process.poll() is None:
            stop.wait(0.5)
        stop.set()
    watcher.join()
    for number, done in enumerate(running):
        _note_crash(number, done, tally)
    if server.process.poll() is not None:
        tally.fail(f"the server ended with status {server.process.returncode}")
    else:
        _await_empty(server, tally)


def _note_crash(number: int, done: Future[None], tally: Tally) -> None:
    error = done.exception()
    if error is not None:
        tally.fail(f"client {number} crashed: {''.join(traceback.format_exception(error))}")


def _await_empty(server: Server, tally: Tally) -> None:
    """When all clients have gone and the time to live is over, the server must hold nothing."""
    end = monotonic() + SESSION_TTL + PATIENCE
    while (load := _load(server)) != Load():
        if monotonic() > end:
            tally.fail(f"the server still holds something when all have gone: {load}")
            return
        sleep(0.5)


def _load(server: Server) -> Load:
    with connection(server.address) as channel:
        stub = InferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        return stub.GetModelInfo(GetModelInfoRequest(), timeout=10).load


def _shut_down(server: Server, tally: Tally) -> None:
    if server.process.poll() is not None:
        return  # noted before
    server.process.terminate()
    status = server.process.wait(SHUTDOWN_TIMEOUT)
    if status:
        tally.fail(f"the server ended with status {status} when it was told to end")


def _result(arguments: argparse.Namespace, tally: Tally, memory: Memory) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": arguments.minutes,
        "clients": arguments.clients,
        "seed": arguments.seed,
        "server": [str(flag) for flag in SERVER_FLAGS],
        "actions": dict(sorted(tally.actions.items())),
        "statuses": [
            {"status": status, "reason": reason, "count": count}
            for (status, reason), count in sorted(tally.statuses.items())
        ],
        "memory": memory.to_json(),
        "failures": tally.failures,
    }


def _summary(result: dict[str, Any]) -> str:
    """The tables that are printed at the end."""
    memory = result["memory"]
    sizes = [rss for _, rss in memory["samples"]]
    rows = [(name, f"{count}") for name, count in result["actions"].items()]
    rows += [
        (f"{each['status']} {each['reason'] or '(of gRPC)'}", f"{each['count']}")
        for each in result["statuses"]
    ]
    rows += [
        ("resident memory at the start, MiB", f"{sizes[0]:.0f}"),
        ("at the end", f"{sizes[-1]:.0f}"),
        ("at most", f"{max(sizes):.0f}"),
        ("growth after the warm-up", _bounded(memory, "growth_mib")),
        ("swing after the warm-up", _bounded(memory, "swing_mib")),
        ("failures", f"{len(result['failures'])}"),
    ]
    width = max(len(name) for name, _ in rows)
    table = "".join(f"{name:{width}}  {value}\n" for name, value in rows)
    verdict = "FAILED" if result["failures"] else "passed"
    title = f"{result['clients']} clients, {result['minutes']:g} minutes, seed {result['seed']}"
    return f"{title}\n\n{table}\n{verdict}"


def _bounded(memory: dict[str, Any], name: str) -> str:
    return f"{memory[name]:.1f} (at most {memory[f'max_{name}']:g})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=_minutes, default=10.0, metavar="M")
    parser.add_argument("--clients", type=int, default=16, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("soak-results.json"),
        metavar="FILE",
        help="where to write the results (%(default)s)",
    )
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
