"""stip-client serve: run the gateway, which speaks OpenAI's API on this machine."""

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
from stip_client.cli.connection_options import Commands, access, add_server_command, at_least
from stip_client.cli.extras import require
from stip_client.cli.generation_arguments import add_wait_argument
from stip_client.cli.terminal import say
from stip_client.errors import ConnectionLostError, WrongKeyError
from stip_client.gateway.settings import GatewaySettings
from stip_client.http.listening_socket import (
    ListenError,
    is_local,
    listening_socket,
    port,
    url,
)
from stip_client.transport.credentials import check_token, read_token

# pydantic, Starlette and uvicorn are an extra: import only the gateway's settings up here.

KEY_VARIABLE = "STIP_GATEWAY_KEY"
EXTRA = ("pydantic", "starlette", "uvicorn")
# Seconds that requests have to end after a signal: replies end with their next token, and requests
# that still wait for their first token are cancelled.
GRACE_SECONDS = 2
# Longer than applications keep idle connections, so that none is closed during a request.
KEEP_ALIVE_SECONDS = 300


def add_parser(commands: Commands) -> None:
    parser = add_server_command(
        commands,
        "serve",
        help="let applications use the model through OpenAI's API",
        description="Listen on this machine and speak OpenAI's API, so that applications use the "
        "model with a change of their base URL. Text is plain between them and this process; "
        "what leaves it for the server is masked.",
    )
    gateway = parser.add_argument_group("gateway")
    gateway.add_argument(
        "--host",
        default=GatewaySettings.host,
        metavar="ADDRESS",
        help="listen here; beyond this machine only with an API key (default: %(default)s)",
    )
    gateway.add_argument(
        "--port",
        type=port,
        default=GatewaySettings.port,
        help="0 takes a free one (default: %(default)s)",
    )
    gateway.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="require every application to send the key in this file's first line "
        f"(default: the environment variable {KEY_VARIABLE}, if it is set)",
    )
    gateway.add_argument(
        "--allow-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="allow web pages of this origin, such as https://chat.example.org; repeatable",
    )
    gateway.add_argument(
        "--model-name",
        metavar="NAME",
        default=GatewaySettings.model_name,
        help="the model's id for applications (default: its type and the bundle's fingerprint)",
    )
    gateway.add_argument(
        "--max-concurrent",
        type=at_least(1),
        default=GatewaySettings.max_concurrent,
        metavar="N",
        help="replies generated at once; more are refused with status 429 (default: %(default)s)",
    )
    add_wait_argument(gateway, default=GatewaySettings.wait)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    require("gateway", EXTRA, "the gateway")
    settings = GatewaySettings(
        host=arguments.host,
        port=arguments.port,
        key=_key(arguments.api_key_file),
        origins=arguments.allow_origin,
        model_name=arguments.model_name,
        max_concurrent=arguments.max_concurrent,
        wait=arguments.wait,
    )
    received = asyncio.run(_serve(arguments, settings))
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _listener(settings: GatewaySettings) -> socket.socket:
    refusal = ListenError(
        f"{settings.host} can be reached by other machines, and the gateway has no API key",
        hint=f"listen on {GatewaySettings.host}, or give a key (--api-key-file or {KEY_VARIABLE})",
    )
    unless_local = refusal if settings.key is None else None
    return listening_socket(settings.host, settings.port, unless_local=unless_local)


async def _serve(arguments: argparse.Namespace, settings: GatewaySettings) -> signal.Signals:
    from stip_client.gateway.access_log import LogWriter
    from stip_client.gateway.app import make_app
    from stip_client.gateway.served_model import ServedModel
    from stip_client.http.http_server import serve

    with (
        _listener(settings) as listener,
        closing(LogWriter(sys.stderr)) as log,
    ):
        if not is_local(listener):
            say("warning: what applications send travels in plain text to this address")
        options = access(arguments)
        options["max_conversations"] = settings.max_concurrent
        async with AsyncClient(arguments.server, arguments.bundle, **options) as client:
            await _check_server(client)
            model = ServedModel(client, settings)
            base_url = url(listener, "/v1")
            return await serve(
                make_app(model, settings, log),
                listener,
                grace_seconds=GRACE_SECONDS,
                has_lifespan=False,
                keep_alive_seconds=KEEP_ALIVE_SECONDS,
                on_listening=lambda: print(f"listening on {base_url}", flush=True),
                on_ending=model.end,
            )


async def _check_server(client: AsyncClient) -> None:
    """Report now what every request would fail with. A server may still be starting."""
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
    """The API key, if one is configured. Raises CredentialsError."""
    if file is not None:
        return read_token(file)
    key = os.environ.get(KEY_VARIABLE)
    return check_token(key) if key else None


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or text != f"{parts.scheme}://{parts.netloc}"
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is no origin, such as https://chat.example.org")
    return text.lower()
