"""stip-keys audit: attacks the user's own bundles, and tells what they give away."""

from __future__ import annotations

import argparse
from pathlib import Path

from stip_keys.audit import CONVERSATIONS, REPLY_TOKENS, SEEDS, TIME_LIMIT
from stip_keys.commands.options import add_passphrase_file

EPILOG = """\
examples:
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct --key master.key --plot audit.png
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct --attacks sorted-values --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "audit",
        help="attack your own bundles, and see what they give away",
        description="Run published attacks on traffic that the bundles make, as each party could, "
        "and print how many tokens and how much of the key they recover.",
        epilog=EPILOG,
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", type=Path, metavar="OUT", help="the folder that convert wrote")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="SRC",
        help="the checkpoint they were converted from",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="master key, to compare recovered masks with (default: the client's key alone)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one prompt a line, as text or as a JSON list of token ids; those that are not sent "
        "show the attackers what such text is like (default: built-in ones)",
    )
    parser.add_argument(
        "--seeds", type=_positive, default=SEEDS, metavar="N", help=f"choices of prompts ({SEEDS})"
    )
    parser.add_argument(
        "--conversations",
        type=_positive,
        default=CONVERSATIONS,
        metavar="N",
        help=f"prompts sent for each seed, at most half of all ({CONVERSATIONS})",
    )
    parser.add_argument(
        "--reply-tokens",
        type=_positive,
        default=REPLY_TOKENS,
        metavar="N",
        help=f"longest reply ({REPLY_TOKENS})",
    )
    parser.add_argument(
        "--time-limit",
        type=_positive,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="longest run of an attack that searches by running the model, as those on hidden "
        f"states; what it has found by then is counted ({TIME_LIMIT})",
    )
    parser.add_argument(
        "--attacks",
        metavar="A,B",
        help="only these, their words joined by hyphens, as sorted-values (default: all)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write JSON to FILE, or print it instead of the table",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a .png or .svg")
    add_passphrase_file(parser, "--passphrase-file", "--key")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # what it needs would cost every other command its start
    from stip_keys.audit.audit import run

    return run(arguments)


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value
