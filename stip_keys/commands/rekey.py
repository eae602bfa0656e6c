"""stip-keys rekey: gives bundles a new key without the checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from stip_keys.commands.options import (
    add_base_seed,
    add_passphrase_file,
    add_signing,
    make_bundles,
    make_key,
    read_key,
    say,
    signing_key,
)
from stip_keys.convert.rekeying import Rekeying
from stip_keys.masks.key_file import read_master_key
from stip_keys.masks.passphrase import PassphraseSource


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "rekey",
        help="give bundles a new key, without the checkpoint",
        description="Make the bundles of one master key into those of another. The result equals, "
        "byte for byte, what converting the checkpoint with the new key makes.",
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
    )
    parser.add_argument("bundles", type=Path, metavar="SRC", help="the folder that convert wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="master key that made the bundles"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--new-key",
        type=Path,
        metavar="FILE",
        help="new master key (default: make one, OUT/master.key)",
    )
    add_base_seed(source)
    add_passphrase_file(parser, "--passphrase-file", "--key")
    add_passphrase_file(parser, "--new-passphrase-file", "--new-key")
    add_signing(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    old = read_master_key(arguments.key, PassphraseSource(arguments.passphrase_file))
    file, passphrase_file = arguments.new_key, arguments.new_passphrase_file
    new = read_key(read_master_key, file, passphrase_file, "--new-key", "--new-passphrase-file")
    made_key = None
    if new is None:
        new = made_key = make_key(arguments.base_seed)
    signed_by = signing_key(arguments)
    rekeying = Rekeying(arguments.bundles, old, new)
    if rekeying.is_signed and signed_by is None:
        say("warning: the bundles are signed, and those with the new key will not be: no --sign")
    make_bundles(rekeying, arguments, "re-keying", new_key=made_key, signed_by=signed_by)
    return 0
