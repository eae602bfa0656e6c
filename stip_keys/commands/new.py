"""stip-keys new: makes a master key, or a key that signs bundles."""

from __future__ import annotations

import argparse
from pathlib import Path

from stip_keys.commands.options import add_base_seed, make_key
from stip_keys.convert.signing import SigningKey, write_signing_key
from stip_keys.masks.key_file import write_master_key
from stip_keys.masks.passphrase import new_passphrase


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "new",
        help="make a master key file, or a signing key",
        allow_abbrev=False,  # --passphrase-f SECRET must not pass for --passphrase-file
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: master.key, or signing.key",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--signing",
        action="store_true",
        help="make a key that signs bundles; the public key is written next to it, as .pub",
    )
    add_base_seed(kind)
    wrapping = parser.add_mutually_exclusive_group()
    wrapping.add_argument(
        "--passphrase",
        action="store_true",
        help="wrap the key with a passphrase, typed twice on the terminal",
    )
    wrapping.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="wrap the key with the passphrase in this file's first line",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    passphrase = None
    if arguments.passphrase or arguments.passphrase_file is not None:
        passphrase = new_passphrase(arguments.passphrase_file)
    if arguments.signing:
        output = arguments.output or Path("signing.key")
        signing = SigningKey.generate()
        public_path = write_signing_key(output, signing, passphrase)
        print(f"signing key written to {output}, public key to {public_path}")
        print(f"fingerprint {signing.public_key.fingerprint}")
        return 0
    output = arguments.output or Path("master.key")
    key = make_key(arguments.base_seed)
    write_master_key(output, key, base_seed=arguments.base_seed, passphrase=passphrase)
    print(f"master key written to {output}")
    print(f"fingerprint {key.fingerprint}")
    return 0
