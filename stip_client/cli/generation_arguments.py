"""Command line arguments about a reply, shared by the commands that generate."""

from __future__ import annotations

import argparse
from typing import cast

from stip_client.cli.connection_options import seconds
from stip_client.sampling.drafting import Draft
from stip_client.sampling.parameters import SamplingParameters
from stip_client.session.generation_options import GenerationParameters, Options


def add_generation_arguments(
    parser: argparse.ArgumentParser, *, max_new_tokens: int = GenerationParameters.max_new_tokens
) -> None:
    """Add what ends a reply, how its tokens are chosen and how many tokens are drafted."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="end after this many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end at this text; repeatable"
    )
    add_wait_argument(parser)
    add_draft_argument(parser)
    _add_sampling_arguments(
        parser.add_argument_group("sampling (greedy unless --temperature is above 0)")
    )


def add_wait_argument(parser: argparse._ActionsContainer, *, default: float = 0.0) -> None:
    parser.add_argument(
        "--wait",
        type=seconds,
        default=default,
        metavar="SECONDS",
        help="wait up to this long for a place on a full server (default: %(default)g)",
    )


def add_draft_argument(
    parser: argparse.ArgumentParser, default: Draft = GenerationParameters.draft
) -> None:
    parser.add_argument(
        "--draft",
        type=_draft,
        default=default,
        metavar="auto|off|N",
        help="guess this many tokens ahead from the text so far; this saves round trips and "
        "changes no token (default: %(default)s)",
    )


def _add_sampling_arguments(sampling: argparse._ArgumentGroup) -> None:
    for name, metavar, text in (
        ("temperature", "T", "0 takes the likeliest token; higher values choose more freely"),
        ("top_k", "K", "choose among the K likeliest tokens; 0: among all"),
        (
            "top_p",
            "P",
            "choose among the likeliest tokens that add up to this probability; 1: among all",
        ),
        ("min_p", "P", "leave out tokens less likely than P times the likeliest"),
        (
            "repetition_penalty",
            "X",
            "make tokens that have occurred less likely; 1: do not",
        ),
    ):
        default = getattr(SamplingParameters, name)
        sampling.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{text} (default: %(default)g)",
        )
    sampling.add_argument(
        "--seed",
        type=int,
        default=SamplingParameters.seed,
        metavar="N",
        help="choose the same tokens every time (default: random)",
    )


def generation_options(arguments: argparse.Namespace) -> Options:
    """The arguments as options of `Client.generate` and `Client.chat`."""
    names = Options.__annotations__
    return cast(Options, {name: vars(arguments)[name] for name in names if name in arguments})


def _draft(text: str) -> Draft:
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    if text.isascii() and text.isdecimal() and len(text) <= 6:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither auto, off nor a number of tokens")
