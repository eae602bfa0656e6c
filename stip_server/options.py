"""The options of stip-server. Their defaults are in settings.py."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from stip_model.operations import blas
from stip_server import __version__
from stip_server.observe.logs import CONSOLE, FORMATS, LEVELS
from stip_server.sessions.kv_memory import MemoryAmount, readable
from stip_server.settings import EngineSettings, LimitSettings, ProcessSettings, ServerSettings

SETTINGS = (ProcessSettings, EngineSettings, LimitSettings, ServerSettings)

EPILOG = """\
examples:
  stip-server --model bundles/server
  stip-server --model bundles/server --port 0 --cpu --dtype float32
  stip-server --model bundles/server --host 0.0.0.0 --tls-cert server.pem --tls-key server.key \\
              --token-file tokens.txt --kv-memory 8GiB --metrics-port 9464
"""


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(
        prog=CONSOLE,
        description="Serve a permuted model over gRPC.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --token SECRET must not pass for --token-file
    )
    parser.add_argument("--version", action="version", version=f"{CONSOLE} {__version__}")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="server bundle (OUT/server)"
    )
    parser.add_argument(
        "--verify-key",
        **FILE,
        help="public key file; refuse a bundle that its signing key has not signed",
    )
    parser.add_argument("--host", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, help="port; 0 takes a free one (%(default)s)")
    parser.add_argument(
        "--grace", **SECONDS, help="seconds for running steps at shutdown (%(default)g)"
    )
    _add_computing(parser)
    _add_memory(parser)
    _add_callers(parser)
    _add_limits(parser)
    _add_observing(parser)
    for settings in SETTINGS:
        parser.set_defaults(**{field.name: field.default for field in fields(settings)})
    return parser


def _add_computing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument("--cpu", action="store_true", help="compute on the CPU")
    group.add_argument(
        "--dtype",
        choices=("auto", "float16", "bfloat16", "float32"),
        help="%(default)s: the bundle's type on a GPU, float32 on a CPU",
    )
    group.add_argument(
        "--compile-decode",
        action="store_true",
        help="fuse elementwise operations with mx.compile (needs a C++ compiler on a CPU)",
    )
    group.add_argument(
        "--blas",
        choices=blas.CHOICES,
        help="Linux: the BLAS of MLX's CPU kernels (%(default)s: the first one found)",
    )
    group.add_argument(
        "--max-batch-rows",
        **COUNT,
        help="rows (tokens) of one iteration. A prompt delays other sessions by at most one "
        "iteration. One layer must compute them within 4 s, or the engine counts as stuck "
        "(%(default)s)",
    )


def _add_memory(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--kv-memory",
        type=_amount,
        metavar="SIZE",
        help="keys and values of all sessions: a size like 8GiB, or a percentage of the memory "
        "that remains after the weights are loaded (%(default)s)",
    )
    group.add_argument(
        "--answer-memory",
        **SIZE,
        help="answers that clients have not read yet, all sessions together; further steps wait "
        f"({readable(LimitSettings.answer_memory)})",
    )
    group.add_argument(
        "--session-ttl",
        **SECONDS,
        help="seconds that a session is kept after its stream broke. A session that was idle for "
        "this time is closed if others need its memory (%(default)g)",
    )
    group.add_argument(
        "--wired-limit",
        **SIZE,
        help="macOS: memory that MLX may keep wired. Without it the system decides; too much has "
        "crashed machines",
    )


def _add_callers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "callers", "Beyond loopback addresses, TLS and authentication are required."
    )
    group.add_argument("--tls-cert", **FILE, help="certificate chain, PEM")
    group.add_argument("--tls-key", **FILE, help="its private key, PEM")
    group.add_argument(
        "--client-ca", **FILE, help="require client certificates that this CA has signed"
    )
    group.add_argument(
        "--token-file",
        **FILE,
        help="require a bearer token of this file: lines of NAME TOKEN; read again when it changes",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="listen beyond loopback without TLS or without authentication",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-sessions", **COUNT, help="sessions, parked ones included (%(default)s)"
    )
    group.add_argument(
        "--max-length",
        **COUNT,
        help="tokens in a session (the model's context, or less if the memory is short)",
    )
    group.add_argument("--max-step-rows", **COUNT, help="rows (tokens) in a step (%(default)s)")
    group.add_argument(
        "--max-open-wait",
        **SECONDS,
        help="seconds that a client may wait for a free session (%(default)g)",
    )
    group.add_argument(
        "--max-connections", **COUNT, help="connections that have streams (%(default)s)"
    )
    group.add_argument("--max-streams", **COUNT, help="streams of a connection (%(default)s)")
    group.add_argument("--max-sessions-per-identity", **COUNT, help="sessions of a caller")
    group.add_argument("--kv-memory-per-identity", **SIZE, help="keys and values of a caller")
    group.add_argument(
        "--tokens-per-second",
        type=_rate,
        metavar="N",
        help="tokens per second of a caller; the steps of a faster caller are read more slowly",
    )
    group.add_argument(
        "--allow-echo",
        action="store_true",
        help="let clients ask for the first floats that the server received",
    )


def _add_observing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("observing")
    group.add_argument(
        "--log-level", choices=LEVELS, help="lowest level that is logged to stderr (%(default)s)"
    )
    group.add_argument("--log-format", choices=FORMATS, help="one record a line (%(default)s)")
    group.add_argument(
        "--metrics-port", **PORT, help="serve Prometheus metrics; 0 takes a free port"
    )
    group.add_argument(
        "--metrics-host",
        metavar="HOST",
        help="address of the metrics, which need no authentication (%(default)s)",
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _positive(text: str) -> int:
    # what a message and gRPC's settings can carry, even twice
    if not (text.isdecimal() and 0 < int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number up to {10**9}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    # what a message can carry as milliseconds
    if not 0 <= value <= 4_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 4000000")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _amount(text: str) -> MemoryAmount:
    try:
        return MemoryAmount.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(text: str) -> int:
    size = _amount(text).size
    if size is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 8GiB")
    return size


# How the values of options are parsed, and what --help calls them.
FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
PORT: dict[str, Any] = {"type": _port, "metavar": "PORT"}
COUNT: dict[str, Any] = {"type": _positive, "metavar": "N"}
SECONDS: dict[str, Any] = {"type": _seconds, "metavar": "S"}
SIZE: dict[str, Any] = {"type": _size, "metavar": "SIZE"}
