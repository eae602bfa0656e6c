"""Options that several commands share, and what the commands do with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from stip_keys.commands.messages import say
from stip_keys.convert.bundle_writer import Bundles, BundleWriter, Progress
from stip_keys.convert.signing import SigningKey, read_signing_key
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.passphrase import PassphraseSource


def add_base_seed(parser: argparse._ActionsContainer) -> None:
    """Add --base-seed."""
    parser.add_argument(
        "--base-seed",
        type=int,
        metavar="N",
        help="make a reproducible key, which is not a secret (tests and demonstrations)",
    )


def add_passphrase_file(parser: argparse.ArgumentParser, option: str, of: str) -> None:
    """Add an option that names the file of a passphrase."""
    parser.add_argument(
        option,
        type=Path,
        metavar="FILE",
        help=f"the passphrase of a wrapped {of} is this file's first line "
        "(default: it is asked for on the terminal)",
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


def signing_key(arguments: argparse.Namespace) -> SigningKey | None:
    """The key that --sign names. Raises KeysError."""
    file: Path | None = arguments.sign_passphrase_file
    if arguments.sign:
        option = "--sign-passphrase-file"
        return read_signing_key(arguments.sign, PassphraseSource(file, option=option))
    if file:
        raise KeysError("--sign-passphrase-file opens the file of --sign, and there is none")
    return None


@contextmanager
def _progress_bar(what: str, total: int) -> Iterator[Progress]:
    """Show on a terminal how many of `total` bytes are done."""
    with tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc=what,
        disable=not sys.stderr.isatty(),
        leave=False,
    ) as bar:
        yield bar


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
    with _progress_bar(what, writer.total_bytes) as progress:
        made = writer.write(
            output,
            progress=progress,
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
