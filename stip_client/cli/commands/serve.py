"""stip-client serve: a gateway on this machine that speaks OpenAI's API."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from stip_client.aio import AsyncClient
from stip_client.cli.connection_options import access, seconds
from stip_client.cli.extras import require
from stip_client.cli.terminal import say
from stip_client.errors import ConnectionLostError, WrongKeyError
from stip_client.http.listening_socket import ListenError, is_local, listening_socket, url
from stip_client.transport.credentials import check_token, read_token

# Starlette and uvicorn are an extra, so nothing of stip_client.gateway is imported up here.

KEY_VARIABLE = "STIP_GATEWAY_KEY"
EXTRA = ("starlette", "uvicorn")


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    connection: argparse.ArgumentParser,
) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "serve",
        parents=[connection],
        help="let applications use the model through OpenAI's API",
        description="Listen on this machine and speak OpenAI's API, so that applications use the "
        "model with a change of their base URL. Text is plain between them and this process; "
        "what leaves it for the server is masked.",
        allow_abbrev=False,  # --api-key SECRET must not pass for --api-key-file
    )
    gateway = parser.add_argument_group("gateway")
    gateway.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen here; beyond this machine only with an API key (default: %(default)s)",
    )
    gateway.add_argument(
        "--port", type=_port, default=8080, help="0 takes a free one (default: %(default)s)"
    )
    gateway.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="demand the key in this file's first line of every application "
        f"(default: the environment variable {KEY_VARIABLE}, if it is set)",
    )
    gateway.add_argument(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin in, such as https://chat.example.org; repeatable",
    )
    gateway.add_argument(
        "--model-name",
        metavar="NAME",
        help="the model's id for applications (default: its type and the bundle's fingerprint)",
    )
    gateway.add_argument(
        "--max-concurrent",
        type=_positive,
        default=16,
        metavar="N",
        help="replies at once; more are refused with status 429 (default: %(default)s)",
    )
    gateway.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="let a request wait so long for a place where the server is full "
        "(default: %(default)g)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    require("gateway", EXTRA, "the gateway")
    received = asyncio.run(_serve(arguments))
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _listener(arguments: argparse.Namespace, key: str | None) -> socket.socket:
    refusal = ListenError(
        f"{arguments.host} can be reached by other machines, and the gateway has no API key",
        hint="listen on 127.0.0.1, or give a key (--api-key-file or STIP_GATEWAY_KEY)",
    )
    unless_local = refusal if key is None else None
    return listening_socket(arguments.host, arguments.port, unless_local=unless_local)


async def _serve(arguments: argparse.Namespace) -> signal.Signals:
    from stip_client.gateway.access_log import LogWriter
    from stip_client.gateway.app import make_app
    from stip_client.gateway.served_model import ServedModel
    from stip_client.gateway.server import serve

    key = _key(arguments.api_key_file)
    with (
        _listener(arguments, key) as listener,
        closing(LogWriter(sys.stderr)) as log,
    ):
        if not is_local(listener):
            say("warning: what applications send travels in plain text to this address")
        async with AsyncClient(
            arguments.server,
            arguments.bundle,
            max_conversations=arguments.max_concurrent,
            **access(arguments),
        ) as client:
            await _check_server(client)
            model = ServedModel(client, name=arguments.model_name, wait=arguments.wait)
            app = make_app(
                model,
                key=key,
                origins=arguments.allow_origin,
                max_concurrent=arguments.max_concurrent,
                log=log,
            )
            base_url = url(listener, "/v1")
            return await serve(
                app,
                listener,
                on_listening=lambda: print(f"listening on {base_url}", flush=True),
                on_ending=model.end,
            )


async def _check_server(client: AsyncClient) -> None:
    """Say at once what every request would fail with; a server may still be coming up."""
    try:
        info = await client.model_info()
    except ConnectionLostError as error:
        say(f"warning: {error}; requests are refused until the server answers")
        return
    if info.key_id != client.bundle.manifest.key_id:
        raise WrongKeyError(
            f"the server's model has key_id {info.key_id}, "
            f"the bundle {client.bundle.manifest.key_id}"
        )


def _key(file: Path | None) -> str | None:
    """The API key, if there is to be one. Raises CredentialsError."""
    if file is not None:
        return read_token(file)
    key = os.environ.get(KEY_VARIABLE)
    return check_token(key) if key else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or text != f"{parts.scheme}://{parts.netloc}"
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin, such as https://chat.example.org")
    return text.lower()
