"""python -m benchmarks.speed: run the scenarios, print their figures and write them to files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.speed import machine
from benchmarks.speed.figures import Figure, Skipped
from benchmarks.speed.report import Report, line
from benchmarks.speed.scenarios import (
    batch,
    client_heads,
    client_work,
    decode_and_prefill,
    distant_server,
    gateway,
    masking,
    memory,
    session_opening,
    token_gaps,
)
from benchmarks.speed.workspace import Workspace

SCENARIOS = {
    "decode": decode_and_prefill.decode,
    "wheel": decode_and_prefill.wheel,
    "prefill": decode_and_prefill.prefill,
    "demo": decode_and_prefill.demo,
    "batch": batch.batch,
    "curve": batch.curve,
    "gap": token_gaps.gap,
    "gateway": gateway.gateway,
    "open": session_opening.open_session,
    "fork": session_opening.fork,
    "quotation": distant_server.quotation,
    "restless": distant_server.restless,
    "downlink": distant_server.downlink,
    "client-work": client_work.client_work,
    "client-head": client_heads.client_head,
    "sealed": client_heads.sealed,
    "import": client_work.import_client,
    "rotation": masking.rotation,
    "rekey": masking.rekey,
    "audit": masking.audit,
    "convert": memory.convert,
    "client-memory": memory.client_memory,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 under --strict when a target is missed."""
    arguments = _parser().parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report(
        machine=machine.describe(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        repeats=arguments.repeats,
    )
    for warning in machine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    with Workspace(arguments.out) as workspace:
        for name in arguments.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            for result in SCENARIOS[name](workspace, arguments.repeats):
                report.add(result)
                print(line(result), flush=True)
                # after each result: an interrupted run keeps what it has measured
                report.write(arguments.out)
    print()
    print(report.markdown())
    return 1 if arguments.strict and any(_missed(each) for each in report.figures) else 0


def _missed(figure: Figure | Skipped) -> bool:
    return isinstance(figure, Figure) and not figure.reached


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--only",
        type=_names,
        default=list(SCENARIOS),
        metavar="NAME,...",
        help=f"scenarios to run, of {', '.join(SCENARIOS)} (all)",
    )
    parser.add_argument(
        "--repeats", type=_positive, default=5, metavar="N", help="repetitions (%(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-results"),
        metavar="DIR",
        help="folder for the results and for cached checkpoints (%(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(SCENARIOS)}")
    # in the table's order, which keeps the largest files for the shortest time
    return [name for name in SCENARIOS if name in names]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
