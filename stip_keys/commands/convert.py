"""stip-keys convert: masks a checkpoint, into a bundle for the server and one for clients."""

from __future__ import annotations

import argparse
from pathlib import Path

from stip_keys.commands.options import (
    NONE_WARNING,
    add_base_seed,
    add_passphrase_file,
    add_signing,
    make_bundles,
    make_key,
    read_key,
    say,
    signing_key,
)
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.converter import Converter, Settings
from stip_keys.masks.key_file import read_master_key
from stip_model.bundle.modes import HEADS, SCHEMES
from stip_model.bundle.weight_types import WEIGHT_TYPES


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "convert",
        help="mask a checkpoint, into two bundles",
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
    )
    parser.add_argument("checkpoint", type=Path, metavar="SRC", help="the Hugging Face checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--key", type=Path, metavar="FILE", help="master key (default: a new one, OUT/master.key)"
    )
    add_base_seed(source)
    parser.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="permutation",
        help="how to mask the weights: permutation rounds nothing, rotation rounds weights once, "
        "none hides nothing (default: %(default)s)",
    )
    parser.add_argument(
        "--head",
        choices=HEADS,
        default="server",
        help="where logits are computed: on the server, on the client, or on the server in a "
        "secret order that the client's key undoes (sealed) (default: %(default)s)",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help="number of blocks in each residual permutation; 1 is one full permutation "
        "(default: one for each attention head)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *WEIGHT_TYPES),
        default="auto",
        help="type of the bundles' weights (default: auto, the checkpoint's own)",
    )
    add_passphrase_file(parser, "--passphrase-file", "--key")
    add_signing(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    key = read_key(read_master_key, arguments.key, arguments.passphrase_file)
    new_key = None
    if key is None and (arguments.scheme != "none" or arguments.base_seed is not None):
        key = new_key = make_key(arguments.base_seed)
    signed_by = signing_key(arguments)
    settings = Settings(arguments.scheme, key, arguments.blocks, arguments.dtype, arguments.head)
    converter = Converter(Checkpoint(arguments.checkpoint), settings)
    if arguments.scheme == "none":
        say(NONE_WARNING)
    made = make_bundles(converter, arguments, "converting", new_key=new_key, signed_by=signed_by)
    if made.server.residual_blocks == made.server.model.hidden_size > 1:
        say("warning: blocks of one element permute nothing: hidden states are sent unmasked")
    return 0
