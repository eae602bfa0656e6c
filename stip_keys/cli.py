"""stip-keys: the developer's command line."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from stip_keys import __version__
from stip_keys.commands import audit, convert, inspect, new, rekey
from stip_keys.commands.options import PROGRAM, say
from stip_keys.masks.errors import KeyFilePermissionWarning, NotSecretWarning
from stip_model.errors import StipError

COMMANDS = (new, convert, rekey, inspect, audit)
EPILOG = """\
examples:
  stip-keys new -o master.key
  stip-keys convert Qwen2.5-3B-Instruct --key master.key -o bundles
  stip-keys inspect bundles
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct
  stip-keys rekey bundles --key master.key -o next_bundles
  stip-keys new --signing --passphrase -o signing.key
  stip-keys convert Qwen2.5-3B-Instruct --key master.key --sign signing.key -o signed_model
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        for category in (KeyFilePermissionWarning, NotSecretWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = _show_warning
        try:
            status: int = arguments.run(arguments)
            sys.stdout.flush()  # here, so that a closed pipe is handled below
            return status
        except StipError as error:
            say(f"error: {error}")
            if error.hint:
                say(f"hint: {error.hint}")
            return 1
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except BrokenPipeError:
            # nobody reads our output any more: discard what is still buffered
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Make keys, convert Hugging Face checkpoints to masked bundles, attack them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")
