"""The options that say how a reply is generated, shared by the commands that generate."""

from __future__ import annotations

import argparse

from stip_client.cli.connection_options import seconds
from stip_client.sampling.drafting import Draft
from stip_client.session.generation_options import Options

SAMPLING_TITLE = "sampling (greedy unless --temperature is above 0)"


def add_generation_options(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Add what ends a reply, how its tokens are chosen and how many are guessed in advance."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="end after so many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end at this text; repeatable"
    )
    add_wait_option(parser)
    add_draft_option(parser)
    _add_sampling_options(parser.add_argument_group(SAMPLING_TITLE))


def add_wait_option(parser: argparse.ArgumentParser) -> None:
    """Add --wait."""
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for a place where the server is full (default: %(default)g)",
    )


def add_draft_option(parser: argparse.ArgumentParser, default: Draft = "auto") -> None:
    """Add --draft."""
    parser.add_argument(
        "--draft",
        type=_draft,
        default=default,
        metavar="auto|off|N",
        help="guess so many tokens in advance from what was said before, which saves round trips "
        "and changes no token (default: %(default)s)",
    )


def _add_sampling_options(sampling: argparse._ArgumentGroup) -> None:
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


def generation_options(arguments: argparse.Namespace) -> Options:
    """What the options say, as `Client.generate` and `Client.chat` take it."""
    return {
        "max_new_tokens": arguments.max_new_tokens,
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "min_p": arguments.min_p,
        "repetition_penalty": arguments.repetition_penalty,
        "seed": arguments.seed,
        "stop": arguments.stop,
        "draft": arguments.draft,
        "wait": arguments.wait,
    }


def _draft(text: str) -> Draft:
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    if text.isascii() and text.isdecimal() and len(text) <= 6:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither auto, off nor a number of tokens")
