"""stip-keys inspect: describes a key file or a bundle, and checks it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stip_keys.commands.options import NONE_WARNING, say
from stip_keys.inspection import inspect
from stip_keys.masks.passphrase import read_passphrase
from stip_model.bundle.signature import read_public_key


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="describe and check a key file or a bundle",
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument(
        "--verify-key",
        type=Path,
        metavar="FILE",
        help="fail unless the signing key of this public key signed the bundle",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="open a wrapped key with the passphrase in this file's first line",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
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
        say(NONE_WARNING)
    return 0


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={inner}" for name, inner in value.items())
    return str(value)
