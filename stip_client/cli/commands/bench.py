"""stip-client bench: measure how fast a server answers one session and several at once."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip_client.cli.benchmark.concurrent_sessions import generate_at_once
from stip_client.cli.benchmark.report import Figures, figures, report, table_head, table_row, title
from stip_client.cli.connection_options import Commands, access, add_server_command, at_least
from stip_client.cli.generation_arguments import add_draft_argument, add_wait_argument
from stip_client.cli.signals import sigterm_raises
from stip_client.cli.terminal import printable
from stip_client.client import Client
from stip_client.errors import ClientError, ContextOverflowError
from stip_client.session.generation_options import Options

# Tokens of a reply that is not counted: the first tokens include one-time costs.
WARM_UP_TOKENS = 4
PLOT_SUFFIXES = (".png", ".svg")
SESSIONS = [1, 2, 4, 8]


def add_parser(commands: Commands) -> None:
    parser = add_server_command(
        commands,
        "bench",
        help="measure how fast a server answers",
        description="Measure a server with a prompt of random tokens for each session and greedy "
        "replies of a fixed length. Prints medians over all repetitions; the total counts from the "
        "start to the last token, including the time of the prompts.",
    )
    parser.add_argument(
        "--sessions",
        type=_counts,
        default=SESSIONS,
        metavar="N[,...]",
        help=f"concurrent sessions (default: {','.join(map(str, SESSIONS))})",
    )
    for name, default, least, what in (
        ("--prompt-tokens", 128, 1, "tokens of a prompt"),
        ("--new-tokens", 64, 2, "tokens of a reply"),
        ("--repeats", 3, 1, "measurements of each, after a round that is not counted"),
        ("--seed", 0, 0, "seed of the random prompts"),
    ):
        parser.add_argument(
            name,
            type=at_least(least),
            default=default,
            metavar="N",
            help=f"{what} (default: %(default)s)",
        )
    # off: drafts on random tokens say nothing about drafts on text
    add_draft_argument(parser, default="off")
    add_wait_argument(parser)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to this file"
    )
    parser.add_argument(
        "--plot",
        type=_plot_file,
        metavar="FILE",
        help="draw the figures into this .png or .svg file (needs Matplotlib)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    draw = None if arguments.plot is None else _import_draw()
    for path in (arguments.json, arguments.plot):
        _check_writable(path)
    with sigterm_raises(), ExitStack() as clients_open:
        with Client(arguments.server, arguments.bundle, **access(arguments)) as client:
            info = client.model_info()
            vocab_size = client.bundle.manifest.model.vocab_size
        _check_length(arguments, info)
        caption = (
            f"{title(info)}; prompts of {arguments.prompt_tokens}, replies of "
            f"{arguments.new_tokens} tokens"
        )
        print(f"{printable(caption)}\n{table_head()}", flush=True)
        clients = [
            clients_open.enter_context(
                Client(arguments.server, arguments.bundle, **access(arguments))
            )
            for _ in range(max(arguments.sessions))
        ]
        found = _measure(clients, arguments, vocab_size)
    options = {
        name: getattr(arguments, name)
        for name in ("sessions", "prompt_tokens", "new_tokens", "repeats", "seed", "draft")
    }
    try:
        if arguments.json is not None:
            content = report(arguments.server, info, options, found)
            arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if draw is not None:
            draw(found, caption, arguments.plot)
    except OSError as error:
        raise ClientError(f"cannot write {error.filename}: {error.strerror}") from error
    return 0


def _measure(
    clients: Sequence[Client], arguments: argparse.Namespace, vocab_size: int
) -> list[Figures]:
    """Measure every number of sessions and print a row for each."""
    options: Options = {
        "max_new_tokens": arguments.new_tokens,
        "ignore_eos": True,
        "draft": arguments.draft,
        "wait": arguments.wait,
    }
    warm_up: Options = {**options, "max_new_tokens": WARM_UP_TOKENS}
    random = np.random.default_rng(arguments.seed)

    def prompts(count: int) -> list[list[int]]:
        shape = (count, arguments.prompt_tokens)
        drawn: list[list[int]] = random.integers(0, vocab_size, shape).tolist()
        return drawn

    found = []
    for count in arguments.sessions:
        generate_at_once(clients, prompts(count), warm_up)
        rounds = [
            generate_at_once(clients, prompts(count), options) for _ in range(arguments.repeats)
        ]
        found.append(figures(rounds))
        print(table_row(found[-1]), flush=True)
    return found


# -- checks before the measurement ---------------------------------------------------


def _import_draw() -> Callable[[Sequence[Figures], str, Path], None]:
    try:
        from stip_client.cli.benchmark.plot import draw
    except ImportError as error:
        raise ClientError(
            f"--plot needs Matplotlib: {error}",
            hint='pip install ".[plot]" in the folder of this project',
        ) from error
    return draw


def _check_writable(path: Path | None) -> None:
    """Raise ClientError for a file that could not be written after the measurement."""
    if path is None:
        return
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ClientError(f"cannot write {path}", hint="name a file in a folder that exists")


def _check_length(arguments: argparse.Namespace, info: GetModelInfoResponse) -> None:
    """Raise ContextOverflowError if prompt and reply do not fit; the last token is not sent."""
    needed = arguments.prompt_tokens + arguments.new_tokens - 1
    if needed > info.limits.max_length:
        raise ContextOverflowError(
            f"--prompt-tokens and --new-tokens take {needed} tokens; the server's sessions hold "
            f"{info.limits.max_length}"
        )


# -- types of options ------------------------------------------------------------------------------


def _counts(text: str) -> list[int]:
    return [at_least(1)(each.strip()) for each in text.split(",")]


def _plot_file(text: str) -> Path:
    if not text.lower().endswith(PLOT_SUFFIXES):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .png nor in .svg")
    return Path(text)
