"""What several commands share: options, the keys they name, messages, the writing of bundles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from stip_keys.convert.bundle_writer import Bundles, BundleWriter
from stip_keys.convert.signing import SigningKey, read_signing_key
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.passphrase import PassphraseSource

PROGRAM = "stip-keys"
NONE_WARNING = "warning: scheme none hides nothing: weights and hidden states stay in plain order"
Key = TypeVar("Key")


def say(text: str) -> None:
    """Print a line to stderr, after the program's name."""
    print(f"{PROGRAM}: {text}", file=sys.stderr)


def add_base_seed(parser: argparse._ActionsContainer) -> None:
    """Add --base-seed."""
    parser.add_argument(
        "--base-seed",
        type=int,
        metavar="N",
        help="make a reproducible key that is not secret (for tests and demonstrations)",
    )


def add_passphrase_file(parser: argparse.ArgumentParser, option: str, of: str) -> None:
    """Add an option for the file with the passphrase of the key that option `of` names."""
    parser.add_argument(
        option,
        type=Path,
        metavar="FILE",
        help=f"if the key of {of} is wrapped, read its passphrase from this file's first line "
        "(default: ask on the terminal)",
    )


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Add --sign, and an option for the file of its passphrase."""
    parser.add_argument(
        "--sign", type=Path, metavar="FILE", help="sign both bundles with this signing key"
    )
    add_passphrase_file(parser, "--sign-passphrase-file", "--sign")


def make_key(base_seed: int | None) -> MasterKey:
    """A new master key, or that of a base seed, with a warning that it is not secret."""
    if base_seed is None:
        return MasterKey.generate()
    say(f"warning: the key of --base-seed {base_seed} is not a secret: anyone can make it")
    return MasterKey.from_base_seed(base_seed)


def read_key(
    read: Callable[[Path, PassphraseSource], Key],
    file: Path | None,
    passphrase_file: Path | None,
    option: str = "--key",
    passphrase_option: str = "--passphrase-file",
) -> Key | None:
    """Read the key file that `option` names; None where it names none. Raises KeysError."""
    if file:
        return read(file, PassphraseSource(passphrase_file, option=passphrase_option))
    if passphrase_file:
        raise KeysError(
            f"{passphrase_option} opens the file of {option}, and there is none",
            hint="stip-keys new --passphrase-file makes a wrapped key",
        )
    return None


def signing_key(arguments: argparse.Namespace) -> SigningKey | None:
    """The key that --sign names. Raises KeysError."""
    file = arguments.sign_passphrase_file
    return read_key(read_signing_key, arguments.sign, file, "--sign", "--sign-passphrase-file")


def make_bundles(
    writer: BundleWriter,
    arguments: argparse.Namespace,
    what: str,
    *,
    new_key: MasterKey | None,
    signed_by: SigningKey | None,
) -> Bundles:
    """Write the bundles to --output with a progress bar, then print where they are."""
    output, base_seed = arguments.output, arguments.base_seed
    with tqdm(
        total=writer.total_bytes,
        unit="B",
        unit_scale=True,
        desc=what,
        disable=not sys.stderr.isatty(),
        leave=False,
    ) as bar:
        made = writer.write(
            output,
            progress=bar.update,
            master_key=new_key,
            base_seed=base_seed,
            signing_key=signed_by,
        )
    print(f"server bundle  {output / 'server'}  (for the server: no key in it)")
    print(f"client bundle  {output / 'client'}  (private: for clients only)")
    if new_key:
        note = "secret: give it to nobody" if base_seed is None else "not a secret"
        print(f"master key     {output / 'master.key'}  ({note})")
    print(f"key_id         {made.server.key_id}")
    if signed_by:
        print(f"signed by      {signed_by.public_key.fingerprint}")
    return made
