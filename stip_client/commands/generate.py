"""stip-client generate: one reply, streamed to standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import TextIO

from stip_client.client import Client
from stip_client.connection_options import access, seconds
from stip_client.errors import RequestError
from stip_client.generation import Piece
from stip_client.profile import StepProfile


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    connection: argparse.ArgumentParser,
) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "generate",
        parents=[connection],
        help="generate a reply to a prompt",
        allow_abbrev=False,  # --token SECRET must not pass for --token-file
    )
    parser.add_argument(
        "--prompt",
        required=True,
        metavar="TEXT",
        help="the user's message; - reads it from standard input",
    )
    parser.add_argument(
        "--raw", action="store_true", help="send the prompt as it is, without the chat template"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=32,
        metavar="N",
        help="end after so many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end at this text; repeatable"
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for a place where the server is full (default: %(default)g)",
    )
    sampling = parser.add_argument_group("sampling (greedy unless --temperature is above 0)")
    sampling.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest token, more makes the choice freer (default: %(default)g)",
    )
    sampling.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="choose among the K likeliest tokens; 0: among all (default: %(default)s)",
    )
    sampling.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="choose among the likeliest tokens that add up to this probability; "
        "1: among all (default: %(default)g)",
    )
    sampling.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="leave out tokens less likely than P times the likeliest (default: %(default)g)",
    )
    sampling.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="make tokens that have occurred less likely; 1: do not (default: %(default)g)",
    )
    sampling.add_argument(
        "--seed", type=int, metavar="N", help="choose the same tokens every time (default: random)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--quiet", action="store_true", help="print the reply and nothing else")
    output.add_argument(
        "--profile", action="store_true", help="print where the time of every step went"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object at the end")
    output.add_argument(
        "--echo",
        action="store_true",
        help="ask the server for the first ten floats it received (stip-server --allow-echo)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not prompt:
        raise RequestError("the prompt is empty")
    streamed = not arguments.json
    pieces: list[Piece] = []
    started = perf_counter()
    first_token_at = started
    with Client(arguments.server, arguments.bundle, **access(arguments)) as client:
        for piece in client.generate(
            prompt,
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            min_p=arguments.min_p,
            repetition_penalty=arguments.repetition_penalty,
            seed=arguments.seed,
            stop=arguments.stop,
            raw=arguments.raw,
            echo=arguments.echo,
            wait=arguments.wait,
        ):
            if not pieces:
                first_token_at = perf_counter()
            pieces.append(piece)
            if streamed:
                print(piece.text, end="", flush=True)
    finished = perf_counter()
    if streamed:
        print()
    if arguments.json:
        print(json.dumps(_as_json(pieces, started, first_token_at, finished), ensure_ascii=False))
    if arguments.echo and streamed:
        _note(f"the server received: {_floats(pieces[0].received)} ...")
    if arguments.profile:
        _print_profile(pieces, sys.stderr)
    if not arguments.quiet and streamed:
        _note(_summary(pieces, started, first_token_at, finished))
    return 0


def _as_json(
    pieces: Sequence[Piece], started: float, first_token_at: float, finished: float
) -> dict[str, object]:
    steps = _steps(pieces)
    return {
        "text": "".join(piece.text for piece in pieces),
        "token_ids": [piece.token_id for piece in pieces],
        "logprobs": [round(piece.logprob, 6) for piece in pieces],
        "finish_reason": pieces[-1].finish_reason,
        "prompt_tokens": steps[0].rows,
        "seconds_to_first_token": round(first_token_at - started, 6),
        "seconds": round(finished - started, 6),
        "received": list(pieces[0].received),
        "steps": [
            {
                "rows": step.rows,
                "drafted": step.drafted,
                "client_seconds": round(step.client, 6),
                "wire_seconds": round(step.wire, 6),
                "queue_seconds": round(step.queue, 6),
                "compute_seconds": round(step.compute, 6),
                "bytes_up": step.bytes_up,
                "bytes_down": step.bytes_down,
            }
            for step in steps
        ],
    }


def _steps(pieces: Sequence[Piece]) -> list[StepProfile]:
    return [piece.profile for piece in pieces if piece.profile is not None]


def _print_profile(pieces: Sequence[Piece], file: TextIO) -> None:
    titles = ("client", "wire", "queue", "compute", "up", "down")
    print(f"{'step':>5}{'rows':>6}" + "".join(f"{each:>9}" for each in titles), file=file)
    print(" " * 11 + f"{'ms':>9}" * 4 + f"{'bytes':>9}" * 2, file=file)
    for number, step in enumerate(_steps(pieces)):
        times = (step.client, step.wire, step.queue, step.compute)
        columns = "".join(f"{seconds * 1e3:9.2f}" for seconds in times)
        print(
            f"{number:>5}{step.rows:>6}{columns}{step.bytes_up:>9}{step.bytes_down:>9}", file=file
        )


def _summary(
    pieces: Sequence[Piece], started: float, first_token_at: float, finished: float
) -> str:
    steps = _steps(pieces)
    text = (
        f"{steps[0].rows} prompt tokens, first token after "
        f"{(first_token_at - started) * 1e3:.0f} ms"
    )
    if len(pieces) > 1:
        speed = (len(pieces) - 1) / max(finished - first_token_at, 1e-9)
        up, down = (
            sum(each) / (len(pieces) - 1)
            for each in zip(*((step.bytes_up, step.bytes_down) for step in steps[1:]), strict=True)
        )
        text += (
            f"; {len(pieces)} tokens in {len(steps)} round trips, {speed:.1f} tokens/s, "
            f"{_bytes(up)} up and {_bytes(down)} down a token"
        )
    return f"{text}; stopped by {pieces[-1].finish_reason}"


def _bytes(count: float) -> str:
    return f"{count:.0f} B" if count < 1000 else f"{count / 1000:.1f} KB"


def _floats(values: Sequence[float]) -> str:
    return " ".join(f"{value:+.3f}" for value in values)


def _note(text: str) -> None:
    print(text, file=sys.stderr)
