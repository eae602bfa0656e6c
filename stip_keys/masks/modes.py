"""The options that choose a conversion's mode: how it masks, and where logits are made."""

from __future__ import annotations

import argparse

from stip_keys.masks.keys import HEADS, SCHEMES


def add_modes(parser: argparse.ArgumentParser) -> None:
    """--scheme and --head, as `stip-keys convert` and `stip-client demo` take them."""
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="permutation",
        help="how to mask: permutation rounds nothing, rotation rounds weights once, none hides "
        "nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default="server",
        help="where logits are made: on the server in vocabulary order (the default), on the "
        "client, or on the server in an order that only the client's key opens",
    )
