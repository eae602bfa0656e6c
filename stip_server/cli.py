"""stip-server: the server's command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from stip.v1.manifest_pb2 import Scheme
from stip_model.bundle.manifest import ServerBundle
from stip_model.bundle.signature import read_public_key
from stip_model.errors import StipError
from stip_model.operations import blas
from stip_server import __version__
from stip_server.auth.callers import Authenticator
from stip_server.auth.exposure import check_exposure, check_tls_options
from stip_server.auth.tls import server_credentials
from stip_server.auth.token_file import TokenFile
from stip_server.errors import StartError
from stip_server.observe.log_queue import write_in_background
from stip_server.observe.logs import CONSOLE, configure_logging, event
from stip_server.options import parser
from stip_server.sessions.kv_memory import readable
from stip_server.settings import EngineSettings, LimitSettings, ProcessSettings, ServerSettings

if TYPE_CHECKING:
    from stip_server.engine.engine import Engine

log = logging.getLogger(__name__)
console = logging.getLogger(CONSOLE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server. Returns 0 after a shutdown, 1 after an error, 2 after wrong usage."""
    arguments = parser().parse_args(argv)
    process = ProcessSettings.of(arguments)
    configure_logging(process.log_level, process.log_format)
    try:
        _run(arguments, process)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        hint = "pip install '.[cpu]' on Linux, '.[cuda]' with CUDA, '.[metal]' on macOS"
        event(console, logging.ERROR, f"{error.name} is not installed", hint=hint)
        return 1
    except StipError as error:
        event(console, logging.ERROR, str(error), hint=error.hint)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace, process: ProcessSettings) -> None:
    verify_key = None if arguments.verify_key is None else read_public_key(arguments.verify_key)
    bundle = ServerBundle(arguments.model, verify_key)
    if verify_key is not None:
        console.info("bundle signed by %s", verify_key.fingerprint)
    if bundle.manifest.scheme == Scheme.SCHEME_NONE:
        event(
            console,
            logging.WARNING,
            "scheme none hides nothing: weights and hidden states are in plain order",
        )
    credentials, authenticator = _access(arguments)
    _load_blas(process.blas)
    # These need libraries of an extra. The engine imports MLX later, after the BLAS is loaded.
    from stip_server.engine.engine import Engine
    from stip_server.observe.metrics import Metrics
    from stip_server.server import serve

    metrics = Metrics()
    engine = Engine(bundle, EngineSettings.of(arguments), metrics)
    settings = ServerSettings.of(arguments)

    def announce(address: str, metrics_port: int | None) -> None:
        _announce(engine, address, tls=credentials is not None, credential=authenticator.credential)
        if metrics_port is not None:
            console.info(f"metrics on http://{settings.metrics_host}:{metrics_port}/metrics")
        _print_address(address)
        write_in_background()

    asyncio.run(
        serve(
            engine,
            metrics,
            settings,
            LimitSettings.of(arguments),
            announce,
            credentials=credentials,
            authenticator=authenticator,
        )
    )
    if engine.alive:
        # Its thread is within MLX. A normal exit could crash or hang there.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _access(arguments: argparse.Namespace) -> tuple[grpc.ServerCredentials | None, Authenticator]:
    """The TLS credentials, and what decides who may call. Raises StartError."""
    cert, key, client_ca = arguments.tls_cert, arguments.tls_key, arguments.client_ca
    check_tls_options(cert, key, client_ca)
    exposed = check_exposure(
        arguments.host,
        tls=cert is not None,
        authenticated=arguments.token_file is not None or client_ca is not None,
        insecure=arguments.insecure,
    )
    if exposed:
        event(console, logging.WARNING, exposed)
    credentials = None if cert is None else server_credentials(cert, key, client_ca)
    tokens = None if arguments.token_file is None else TokenFile(arguments.token_file)
    return credentials, Authenticator(tokens, certificates=client_ca is not None)


def _load_blas(choice: str) -> None:
    try:
        loaded = blas.load_blas(choice)
    except OSError as error:
        raise StartError(f"cannot load {choice}: {error}", hint=blas.INSTALL_HINT) from error
    console.info("BLAS: %s", loaded.name)
    if loaded.slow:
        slow = "it is many times slower than the CPU could be"
        event(console, logging.WARNING, slow, hint=blas.INSTALL_HINT)


def _announce(engine: Engine, address: str, *, tls: bool, credential: str) -> None:
    model = engine.manifest.model
    console.info(
        f"{model.model_type}, {model.num_hidden_layers} layers of {model.hidden_size}, "
        f"{engine.operations.dtype} on {engine.operations.device}"
    )
    console.info(
        f"{readable(engine.kv_bytes_total)} for keys and values: "
        f"{engine.kv_bytes_total // engine.kv_bytes_per_token} tokens"
    )
    event(
        log,
        logging.INFO,
        "serving",
        address=address,
        version=__version__,
        tls=tls,
        callers=credential,
        key_id=engine.manifest.key_id,
        bundle_id=engine.manifest.bundle_id,
    )


def _print_address(address: str) -> None:
    try:
        print(f"listening on {address}", flush=True)
    except BrokenPipeError:
        # Nobody reads our output. Discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
