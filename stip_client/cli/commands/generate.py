"""stip-client generate: one reply, streamed to standard output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from time import perf_counter

from stip_client.cli.connection_options import access
from stip_client.cli.generation_options import add_generation_options, generation_options
from stip_client.cli.reply_measurement import Measurement
from stip_client.cli.reply_report import as_json, print_profile, summary
from stip_client.cli.sigterm import terminate_raises
from stip_client.cli.terminal import reply_text, say
from stip_client.client import Client
from stip_client.errors import ClientError, RequestError
from stip_client.session.base_client import Options
from stip_client.session.generation import Piece, encode_prompt


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
    add_generation_options(parser, max_new_tokens=32)
    output = parser.add_argument_group("output")
    output.add_argument("--quiet", action="store_true", help="print the reply and nothing else")
    output.add_argument(
        "--profile", action="store_true", help="print where the time of every step went"
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object at the end; after an error, what had come and the error",
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
        with terminate_raises():
            reply.generate(prompt)
    except ClientError as error:
        failure = error
    seconds = perf_counter() - started
    pieces, measurement = reply.pieces, reply.measurement
    if arguments.json:
        report = as_json(pieces, measurement, reply.prompt_tokens, seconds, failure)
        print(json.dumps(report, ensure_ascii=False), flush=True)
    elif pieces:
        print(flush=True)
    if failure is not None:
        raise failure
    if arguments.echo and not arguments.json:
        _note(f"the server received: {_floats(pieces[0].received)} ...")
    if arguments.profile:
        print_profile(measurement, sys.stderr)
    if not arguments.quiet and not arguments.json:
        _note(summary(pieces, measurement, reply.prompt_tokens))
    return 0


class _Reply:
    """The reply that the arguments ask for, as far as it has come."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.pieces: list[Piece] = []
        self.measurement = Measurement()
        self.prompt_tokens = 0

    def generate(self, prompt: str) -> None:
        """Generate it, and print it as it comes unless JSON is wanted. Raises ClientError."""
        if not prompt:
            raise RequestError("the prompt is empty")
        arguments = self._arguments
        options: Options = {**generation_options(arguments), "echo": arguments.echo}
        with Client(arguments.server, arguments.bundle, **access(arguments)) as client:
            token_ids = encode_prompt(client.bundle, prompt, raw=arguments.raw)
            self.prompt_tokens = len(token_ids)
            self._tell_what_fits(client)
            self.measurement = Measurement()
            # closed at once where an exception comes between two pieces
            with closing(client.generate(token_ids, **options)) as pieces:
                for piece in pieces:
                    self.measurement.take(piece)
                    self.pieces.append(piece)
                    if not arguments.json:
                        print(reply_text(piece.text, sys.stdout), end="", flush=True)

    def _tell_what_fits(self, client: Client) -> None:
        wanted = self._arguments.max_new_tokens
        length = client.model_info().limits.max_length
        # the last token is never sent back
        room = length - self.prompt_tokens + 1
        if 0 < room < wanted and not self._arguments.quiet:
            say(
                f"note: of --max-new-tokens {wanted} only {room} fit: the context holds {length} "
                f"tokens, and the prompt takes {self.prompt_tokens}"
            )


def _floats(values: Sequence[float]) -> str:
    return " ".join(f"{value:+.3f}" for value in values)


def _note(text: str) -> None:
    print(text, file=sys.stderr)
