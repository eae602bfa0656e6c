"""stip-keys: the developer's command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from stip_keys.checkpoint import Checkpoint
from stip_keys.convert import Converter, Settings
from stip_keys.dtypes import WEIGHT_TYPES
from stip_keys.errors import KeyFilePermissionWarning, KeysError, NotSecretWarning
from stip_keys.inspect import inspect
from stip_keys.keyfile import read_master_key, write_master_key
from stip_keys.keys import HEADS, SCHEMES, MasterKey
from stip_keys.passphrase import (
    Passphrase,
    new_passphrase,
    passphrase_source,
    read_passphrase,
)
from stip_keys.signature import read_public_key
from stip_keys.signing import SigningKey, read_signing_key, write_signing_key

PROGRAM = "stip-keys"
EPILOG = """\
examples:
  stip-keys new -o master.key
  stip-keys convert Qwen2.5-3B-Instruct --key master.key -o stip_model
  stip-keys inspect stip_model
  stip-keys new --signing --passphrase -o signing.key
  stip-keys convert Qwen2.5-3B-Instruct --key master.key --sign signing.key -o signed_model
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        for category in (KeyFilePermissionWarning, NotSecretWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = _show_warning
        try:
            status: int = arguments.run(arguments)
            sys.stdout.flush()  # here, where a reader that has gone is dealt with
            return status
        except KeysError as error:
            _say(f"error: {error}")
            if error.hint:
                _say(f"hint: {error.hint}")
            return 1
        except KeyboardInterrupt:
            _say("interrupted")
            return 130
        except BrokenPipeError:
            # the reader of our output has gone: what is still buffered goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Make keys and convert Hugging Face checkpoints to permuted bundles.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    new = commands.add_parser(
        "new",
        help="make a master key file, or a signing key",
        allow_abbrev=False,  # --passphrase-f SECRET must not pass for --passphrase-file
    )
    new.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: master.key, or signing.key",
    )
    kind = new.add_mutually_exclusive_group()
    kind.add_argument(
        "--signing",
        action="store_true",
        help="make a key that signs bundles; the public key is written beside it, as .pub",
    )
    _add_base_seed(kind)
    wrapping = new.add_mutually_exclusive_group()
    wrapping.add_argument(
        "--passphrase",
        action="store_true",
        help="wrap the key with a passphrase, which is asked for twice",
    )
    wrapping.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="wrap the key with the passphrase in this file's first line",
    )
    new.set_defaults(run=_new)

    convert = commands.add_parser(
        "convert",
        help="permute a checkpoint into two bundles",
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
    )
    convert.add_argument("checkpoint", type=Path, metavar="SRC", help="Hugging Face checkpoint")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    source = convert.add_mutually_exclusive_group()
    source.add_argument(
        "--key", type=Path, metavar="FILE", help="master key (default: a new one, OUT/master.key)"
    )
    _add_base_seed(source)
    convert.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="permutation",
        help="how to mask (default: %(default)s)",
    )
    convert.add_argument(
        "--head",
        choices=HEADS,
        default="server",
        help="where logits are made: on the server in vocabulary order (the default), on the "
        "client, or on the server in an order that only the client's key opens",
    )
    convert.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help="blocks of each residual permutation; 1 is one full permutation "
        "(default: one an attention head)",
    )
    convert.add_argument(
        "--dtype",
        choices=("auto", *WEIGHT_TYPES),
        default="auto",
        help="type of the bundles' weights (default: auto, the checkpoint's own)",
    )
    _add_passphrase_file(convert, "--passphrase-file", "--key")
    convert.add_argument(
        "--sign", type=Path, metavar="FILE", help="sign both bundles with this signing key"
    )
    _add_passphrase_file(convert, "--sign-passphrase-file", "--sign")
    convert.set_defaults(run=_convert)

    show = commands.add_parser(
        "inspect",
        help="describe and check a key file or a bundle",
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
    )
    show.add_argument("path", type=Path, metavar="PATH")
    show.add_argument(
        "--verify-key",
        type=Path,
        metavar="FILE",
        help="demand that a bundle is signed with this public key's signing key",
    )
    show.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="open a wrapped key with the passphrase in this file's first line",
    )
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_inspect)
    return parser


def _add_base_seed(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--base-seed",
        type=int,
        metavar="N",
        help="make a reproducible key, which is not a secret (tests and demonstrations)",
    )


def _add_passphrase_file(parser: argparse.ArgumentParser, option: str, of: str) -> None:
    parser.add_argument(
        option,
        type=Path,
        metavar="FILE",
        help=f"the passphrase of a wrapped {of} is this file's first line "
        "(default: it is asked for on the terminal)",
    )


def _new(arguments: argparse.Namespace) -> int:
    passphrase = None
    if arguments.passphrase or arguments.passphrase_file is not None:
        passphrase = new_passphrase(arguments.passphrase_file)
    if arguments.signing:
        return _new_signing(arguments.output or Path("signing.key"), passphrase)
    output = arguments.output or Path("master.key")
    key = _make_key(arguments.base_seed)
    write_master_key(output, key, base_seed=arguments.base_seed, passphrase=passphrase)
    print(f"master key written to {output}")
    print(f"fingerprint {key.fingerprint}")
    return 0


def _new_signing(output: Path, passphrase: Passphrase | None) -> int:
    key = SigningKey.generate()
    public_path = write_signing_key(output, key, passphrase)
    print(f"signing key written to {output}, public key to {public_path}")
    print(f"fingerprint {key.public_key.fingerprint}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    if arguments.passphrase_file and not arguments.key:
        raise KeysError(
            "--passphrase-file opens the file of --key, and there is none",
            hint="stip-keys new --passphrase-file makes a wrapped key",
        )
    key, new_key = None, None
    if arguments.scheme == "none":
        if arguments.key or arguments.base_seed is not None:
            raise KeysError("scheme none takes no key: it permutes nothing")
        _say("warning: scheme none hides nothing: weights and hidden states stay in plain order")
    elif arguments.key:
        key = read_master_key(arguments.key, passphrase_source(arguments.passphrase_file))
    else:
        key = new_key = _make_key(arguments.base_seed)
    signing_key = _signing_key(arguments)

    settings = Settings(arguments.scheme, key, arguments.blocks, arguments.dtype, arguments.head)
    converter = Converter(Checkpoint(arguments.checkpoint), settings)
    with tqdm(
        total=converter.total_bytes,
        unit="B",
        unit_scale=True,
        desc="converting",
        disable=not sys.stderr.isatty(),
        leave=False,
    ) as progress:
        conversion = converter.write(
            arguments.output,
            progress=progress,
            master_key=new_key,
            base_seed=arguments.base_seed,
            signing_key=signing_key,
        )
    if conversion.server.residual_blocks == conversion.server.model.hidden_size > 1:
        _say("warning: blocks of one element permute nothing: hidden states are sent unmasked")
    output = arguments.output
    print(f"server bundle  {output / 'server'}  (for the server: no key in it)")
    print(f"client bundle  {output / 'client'}  (private: for clients only)")
    if new_key:
        note = "secret: give it to nobody" if arguments.base_seed is None else "not a secret"
        print(f"master key     {output / 'master.key'}  ({note})")
    print(f"key_id         {conversion.server.key_id}")
    if signing_key:
        print(f"signed by      {signing_key.public_key.fingerprint}")
    return 0


def _signing_key(arguments: argparse.Namespace) -> SigningKey | None:
    file: Path | None = arguments.sign_passphrase_file
    if arguments.sign:
        option = "--sign-passphrase-file"
        return read_signing_key(arguments.sign, passphrase_source(file, option=option))
    if file:
        raise KeysError("--sign-passphrase-file opens the file of --sign, and there is none")
    return None


def _inspect(arguments: argparse.Namespace) -> int:
    described = inspect(
        arguments.path,
        verify_key=read_public_key(arguments.verify_key) if arguments.verify_key else None,
        passphrase=read_passphrase(arguments.passphrase_file)
        if arguments.passphrase_file
        else None,
    )
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        for each in described:
            for name, value in each.items():
                if isinstance(value, dict):
                    for inner, inner_value in value.items():
                        print(f"  {inner:<28}{_text(inner_value)}")
                else:
                    print(f"{name:<18}{value}")
            print("every file has the size and SHA-256 in the manifest" if "files" in each else "")
    if any(each.get("scheme") == "none" for each in described):
        _say("warning: scheme none hides nothing: weights and hidden states stay in plain order")
    return 0


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={inner}" for name, inner in value.items())
    return str(value)


def _make_key(base_seed: int | None) -> MasterKey:
    if base_seed is None:
        return MasterKey.generate()
    _say(f"warning: the key of --base-seed {base_seed} is not a secret: anyone can make it")
    return MasterKey.from_base_seed(base_seed)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
