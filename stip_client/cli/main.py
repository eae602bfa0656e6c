"""stip-client: the client's command line."""

from __future__ import annotations

import stip_client.transport.quiet_grpc  # noqa: F401 - before anything else imports gRPC

# isort: split
import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from stip_client import __version__
from stip_client.cli.commands import bench, chat, demo, generate, serve, web
from stip_client.cli.terminal import PROGRAM, printed_warnings, say, say_error
from stip_client.errors import ClientError, HidesNothingWarning, SecretFilePermissionWarning
from stip_keys.masks.errors import KeyFilePermissionWarning

EPILOG = """\
examples:
  stip-client demo
  stip-client demo --scheme rotation --head client
  stip-client generate --server localhost:50051 --bundle bundles/client --prompt "Hello!"
  stip-client generate --server gpu.example.org:50051 --tls --token-file token \\
    --bundle bundles/client --prompt "Hello!"
  stip-client chat --server localhost:50051 --bundle bundles/client
  stip-client bench --server localhost:50051 --bundle bundles/client --sessions 1,2,4,8
  stip-client serve --server localhost:50051 --bundle bundles/client
  stip-client web --server localhost:50051 --bundle bundles/client
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (error), 2 (usage), 130 (Ctrl-C)."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings(), printed_warnings():
        for category in (
            KeyFilePermissionWarning,
            SecretFilePermissionWarning,
            HidesNothingWarning,
        ):
            warnings.simplefilter("always", category)
        warnings.showwarning = _show_warning
        try:
            status: int = arguments.run(arguments)
            sys.stdout.flush()  # here, where BrokenPipeError is caught
            return status
        except ClientError as error:
            say_error(error)
            return 1
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except BrokenPipeError:
            # the reader of our output has gone: discard what is still buffered
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Use a permuted model without sending it text.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (generate, chat, bench, serve, web, demo):
        command.add_parser(commands)
    return parser


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")
