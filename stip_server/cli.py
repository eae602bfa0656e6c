"""stip-server: the server's command line."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stip.v1.manifest_pb2 import Scheme
from stip_server import __version__, blas
from stip_server.bundle import ServerBundle
from stip_server.errors import StartError

if TYPE_CHECKING:
    from stip_server.engine import Engine

PROGRAM = "stip-server"
EPILOG = """\
examples:
  stip-server --model stip_model/server
  stip-server --model stip_model/server --port 0 --cpu --dtype float32
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; its exit status: 0 after a shutdown, 1 for an error, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        _run(arguments)
    except StartError as error:
        _say(f"error: {error}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Serve a permuted model over gRPC.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="server bundle (OUT/server)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=50051, help="port; 0 takes a free one (%(default)s)"
    )
    computing = parser.add_argument_group("computing")
    computing.add_argument("--cpu", action="store_true", help="compute on the CPU")
    computing.add_argument(
        "--dtype",
        choices=("auto", "float16", "bfloat16", "float32"),
        default="auto",
        help="auto: the bundle's on a GPU, float32 on a CPU",
    )
    computing.add_argument(
        "--compile-decode",
        action="store_true",
        help="fuse elementwise operations with mx.compile (needs a C++ compiler on a CPU)",
    )
    computing.add_argument(
        "--blas",
        choices=blas.CHOICES,
        default="auto",
        help="Linux: the BLAS that MLX's CPU kernels call (auto: the first one found)",
    )
    computing.add_argument(
        "--max-batch-rows", type=_positive, default=1024, metavar="N", help="rows an iteration"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-sessions", type=_positive, default=64, metavar="N")
    limits.add_argument(
        "--max-length", type=_positive, metavar="N", help="tokens a session (the model's context)"
    )
    limits.add_argument("--max-step-rows", type=_positive, default=2048, metavar="N")
    limits.add_argument(
        "--session-ttl",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="seconds that a session outlives a broken stream (%(default)g)",
    )
    limits.add_argument(
        "--allow-echo",
        action="store_true",
        help="let clients ask for the first floats the server received",
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="seconds that running steps get at shutdown (%(default)g)",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="warning"
    )
    return parser


def _run(arguments: argparse.Namespace) -> None:
    bundle = ServerBundle(arguments.model)
    if bundle.manifest.scheme == Scheme.SCHEME_NONE:
        _say("warning: scheme none hides nothing: weights and hidden states are in plain order")
    if arguments.host not in ("127.0.0.1", "localhost", "::1"):
        _say(f"warning: {arguments.host} is not a loopback address, and the wire is plain text")
    _load_blas(arguments.blas)
    # MLX is imported only now, behind the BLAS
    if importlib.util.find_spec("mlx") is None:
        raise StartError(
            "MLX is not installed",
            hint="pip install '.[cpu]' on Linux, '.[cuda]' with CUDA, '.[metal]' on macOS",
        )
    from stip_server.engine import Engine, EngineSettings
    from stip_server.limits import LimitSettings
    from stip_server.server import ServerSettings, serve

    engine = Engine(
        bundle,
        EngineSettings(
            cpu=arguments.cpu,
            dtype=arguments.dtype,
            fused=arguments.compile_decode,
            max_batch_rows=arguments.max_batch_rows,
        ),
    )
    settings = ServerSettings(
        host=arguments.host,
        port=arguments.port,
        grace=arguments.grace,
        limits=LimitSettings(
            max_sessions=arguments.max_sessions,
            max_length=arguments.max_length,
            max_step_rows=arguments.max_step_rows,
            session_ttl=arguments.session_ttl,
            allow_echo=arguments.allow_echo,
        ),
    )
    asyncio.run(serve(engine, settings, announce=_announce))


def _load_blas(choice: str) -> None:
    try:
        loaded = blas.load_blas(choice)
    except OSError as error:
        raise StartError(f"cannot load {choice}: {error}", hint=blas.INSTALL_HINT) from error
    _say(f"BLAS: {loaded.name}")
    if loaded.slow:
        _say("warning: it is many times slower than the CPU could be")
        _say(f"hint: {blas.INSTALL_HINT}")


def _announce(engine: Engine, address: str) -> None:
    model = engine.manifest.model
    _say(
        f"{model.model_type}, {model.num_hidden_layers} layers of {model.hidden_size}, "
        f"{engine.dtype} on {engine.device}"
    )
    print(f"listening on {address}", flush=True)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _say(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)
