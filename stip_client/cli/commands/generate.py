"""stip-client generate: stream one reply to standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from time import perf_counter
from typing import TextIO

from stip_client.bundle.prompt import encode_prompt
from stip_client.cli.connection_options import Commands, access, add_server_command
from stip_client.cli.generation_arguments import add_generation_arguments, generation_options
from stip_client.cli.reply_timing import ReplyTiming, rates, shown_bytes
from stip_client.cli.signals import sigterm_raises
from stip_client.cli.terminal import reply_text, say, shown_floats
from stip_client.client import Client
from stip_client.errors import ClientError, RequestError
from stip_client.session.generation import Piece


def add_parser(commands: Commands) -> None:
    parser = add_server_command(
        commands,
        "generate",
        help="generate a reply to a prompt",
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
    add_generation_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--quiet", action="store_true", help="print only the reply")
    output.add_argument(
        "--profile", action="store_true", help="print where the time of each step went"
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object at the end; after an error, what arrived and the error",
    )
    output.add_argument(
        "--echo",
        action="store_true",
        help="ask the server for the first ten floats it received (stip-server --allow-echo)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    reply = _Reply(arguments)
    started = perf_counter()
    failure: ClientError | None = None
    try:
        with sigterm_raises():
            reply.generate(prompt)
    except ClientError as error:
        failure = error
    seconds = perf_counter() - started
    pieces, timing = reply.pieces, reply.timing
    if arguments.json:
        report = _as_json(pieces, timing, seconds, failure)
        print(json.dumps(report, ensure_ascii=False), flush=True)
    elif pieces:
        print(flush=True)
    if failure is not None:
        raise failure
    if arguments.echo and not arguments.json:
        _note(f"the server received: {shown_floats(pieces[0].received)} ...")
    if arguments.profile:
        _print_profile(timing, sys.stderr)
    if not arguments.quiet and not arguments.json:
        _note(_summary(pieces, timing))
    return 0


class _Reply:
    """The reply to the prompt, as far as it has arrived."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.pieces: list[Piece] = []
        self.timing = ReplyTiming()

    def generate(self, prompt: str) -> None:
        """Generate the reply; print it as it arrives unless JSON is wanted. Raises ClientError."""
        if not prompt:
            raise RequestError("the prompt is empty")
        arguments = self._arguments
        with Client(arguments.server, arguments.bundle, **access(arguments)) as client:
            token_ids = encode_prompt(client.bundle, prompt, raw=arguments.raw)
            self._warn_if_too_long(client, len(token_ids))
            self.timing = ReplyTiming(len(token_ids))
            # closed at once if an exception comes between two pieces
            with closing(client.generate(token_ids, **generation_options(arguments))) as pieces:
                for piece in pieces:
                    self.timing.record(piece)
                    self.pieces.append(piece)
                    if not arguments.json:
                        print(reply_text(piece.text, sys.stdout), end="", flush=True)

    def _warn_if_too_long(self, client: Client, prompt_tokens: int) -> None:
        wanted = self._arguments.max_new_tokens
        length = client.model_info().limits.max_length
        # the last token is never sent back
        room = length - prompt_tokens + 1
        if 0 < room < wanted and not self._arguments.quiet:
            say(
                f"note: of --max-new-tokens {wanted} only {room} fit: the context holds {length} "
                f"tokens, and the prompt takes {prompt_tokens}"
            )


def _as_json(
    pieces: Sequence[Piece],
    timing: ReplyTiming,
    seconds: float,
    error: ClientError | None,
) -> dict[str, object]:
    """The reply as one object; after an error, what arrived before it and an `error`."""
    first = timing.first_token
    report: dict[str, object] = {
        "text": "".join(piece.text for piece in pieces),
        "token_ids": [piece.token_id for piece in pieces],
        "logprobs": [round(piece.logprob, 6) for piece in pieces],
        "finish_reason": pieces[-1].finish_reason if pieces else None,
        "prompt_tokens": timing.prompt_tokens,
        "seconds_to_first_token": None if first is None else round(first, 6),
        "seconds": round(seconds, 6),
        "received": list(pieces[0].received) if pieces else [],
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
            for step in timing.steps
        ],
    }
    if error is not None:
        report["error"] = str(error)
    return report


def _print_profile(timing: ReplyTiming, file: TextIO) -> None:
    """One line a step: where its time went, and its bytes."""
    titles = ("client", "wire", "queue", "compute", "up", "down")
    print(f"{'step':>5}{'rows':>6}" + "".join(f"{each:>9}" for each in titles), file=file)
    print(" " * 11 + f"{'ms':>9}" * 4 + f"{'bytes':>9}" * 2, file=file)
    for number, step in enumerate(timing.steps):
        times = (step.client, step.wire, step.queue, step.compute)
        columns = "".join(f"{seconds * 1e3:9.2f}" for seconds in times)
        sizes = f"{step.bytes_up:>9}{step.bytes_down:>9}"
        print(f"{number:>5}{step.rows:>6}{columns}{sizes}", file=file)


def _summary(pieces: Sequence[Piece], timing: ReplyTiming) -> str:
    """One line about a reply of at least one token."""
    first = timing.arrivals[0] * 1e3
    text = f"{timing.prompt_tokens} prompt tokens, first token after {first:.0f} ms"
    found = rates([timing])
    if found.tokens_per_second is not None:
        text += (
            f"; {timing.tokens} tokens in {timing.round_trips} round trips, "
            f"{found.tokens_per_second:.1f} tokens/s, {shown_bytes(found.bytes_up or 0)} up and "
            f"{shown_bytes(found.bytes_down or 0)} down a token"
        )
    return f"{text}; stopped by {pieces[-1].finish_reason}"


def _note(text: str) -> None:
    print(text, file=sys.stderr)
