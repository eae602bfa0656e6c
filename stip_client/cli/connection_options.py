"""Command line options for reaching the server, shared by the commands that talk to one.

No option takes a token itself: everyone on a machine can read command lines.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from stip_client.session.client_core import ClientSettings
from stip_client.transport.credentials import TLS, read_token
from stip_client.transport.endpoint import PATIENCE

TOKEN_VARIABLE = "STIP_TOKEN"
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_server_command(
    commands: Commands, name: str, *, bundle_required: bool = True, **texts: Any
) -> argparse.ArgumentParser:
    """Add a subcommand that talks to a server. texts: arguments of ArgumentParser.

    No option can be abbreviated: --token SECRET must not pass for --token-file.
    """
    parser = commands.add_parser(name, allow_abbrev=False, **texts)
    parser.add_argument(
        "--bundle",
        type=Path,
        required=bundle_required,
        metavar="DIR",
        help="client bundle (OUT/client)",
    )
    parser.add_argument(
        "--verify-key",
        type=Path,
        metavar="FILE",
        help="require that this public key's signing key signed the bundle, and compare every "
        "file of it",
    )
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--server",
        type=_addresses,
        default="localhost:50051",
        metavar="HOST:PORT[,...]",
        help="the server's address; with several servers of one bundle, use the next when one is "
        "lost (default: %(default)s)",
    )
    group.add_argument("--tls", action="store_true", help="use TLS and trust gRPC's default roots")
    for name, text in (
        ("--tls-ca", "use TLS and trust the CAs in this PEM file instead"),
        ("--tls-cert", "use TLS and show this PEM certificate to a server that asks for one"),
        ("--tls-key", "the key of --tls-cert"),
        (
            "--token-file",
            "send the token in this file's first line "
            f"(default: the environment variable {TOKEN_VARIABLE}, if it is set)",
        ),
    ):
        group.add_argument(name, type=Path, metavar="FILE", help=text)
    group.add_argument(
        "--patience",
        type=seconds,
        default=PATIENCE,
        metavar="SECONDS",
        help="after losing the connection or the server, try to continue for this long "
        "(default: %(default)g)",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="send the token to another machine even in plain text",
    )
    return parser


def access(arguments: argparse.Namespace) -> ClientSettings:
    """The values of the options, for a client. Raises CredentialsError."""
    files = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    token = os.environ.get(TOKEN_VARIABLE) or None
    if arguments.token_file is not None:
        token = read_token(arguments.token_file)
    return {
        "tls": TLS(*files) if arguments.tls or any(files) else None,
        "token": token,
        "insecure": arguments.insecure,
        "patience": arguments.patience,
        "verify_key": arguments.verify_key,
    }


def seconds(text: str) -> float:
    """The type of an option in seconds: 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number, `least` or more."""

    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, {least} or more")

    return number


def _addresses(text: str) -> str:
    return ",".join(_address(each.strip()) for each in text.split(","))


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bracketed) or not _is_port(port):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < int(text) <= 65535
