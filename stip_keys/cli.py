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

from stip_keys.audit.command import add_command as add_audit
from stip_keys.checkpoint import Checkpoint
from stip_keys.convert import Converter, Settings
from stip_keys.dtypes import WEIGHT_TYPES
from stip_keys.errors import KeyFilePermissionWarning, KeysError, NotSecretWarning
from stip_keys.inspect import inspect
from stip_keys.keyfile import read_master_key, write_master_key
from stip_keys.keys import HEADS, SCHEMES, MasterKey

PROGRAM = "stip-keys"
EPILOG = """\
examples:
  stip-keys new -o master.key
  stip-keys convert Qwen2.5-3B-Instruct --key master.key -o stip_model
  stip-keys inspect stip_model
  stip-keys audit stip_model --checkpoint Qwen2.5-3B-Instruct
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
        description="Make keys, convert Hugging Face checkpoints to permuted bundles, attack both.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    new = commands.add_parser("new", help="make a master key file")
    new.add_argument("-o", "--output", type=Path, default=Path("master.key"), metavar="FILE")
    _add_base_seed(new)
    new.set_defaults(run=_new)

    convert = commands.add_parser("convert", help="permute a checkpoint into two bundles")
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
    convert.set_defaults(run=_convert)

    show = commands.add_parser("inspect", help="describe and check a key file or a bundle")
    show.add_argument("path", type=Path, metavar="PATH")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_inspect)

    add_audit(commands)
    return parser


def _add_base_seed(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--base-seed",
        type=int,
        metavar="N",
        help="make a reproducible key, which is not a secret (tests and demonstrations)",
    )


def _new(arguments: argparse.Namespace) -> int:
    key = _make_key(arguments.base_seed)
    write_master_key(arguments.output, key, base_seed=arguments.base_seed)
    print(f"master key written to {arguments.output}")
    print(f"fingerprint {key.fingerprint}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    key, new_key = None, None
    if arguments.scheme == "none":
        if arguments.key or arguments.base_seed is not None:
            raise KeysError("scheme none takes no key: it permutes nothing")
        _say("warning: scheme none hides nothing: weights and hidden states stay in plain order")
    elif arguments.key:
        key = read_master_key(arguments.key)
    else:
        key = new_key = _make_key(arguments.base_seed)

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
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    described = inspect(arguments.path)
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
