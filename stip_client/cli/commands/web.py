"""stip-client web: the three-pane page in a browser."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from stip_client.cli.connection_options import Commands, access, add_server_command
from stip_client.cli.extras import require
from stip_client.cli.terminal import say
from stip_client.errors import RequestError
from stip_client.http.listening_socket import is_local, listening_socket, port, url
from stip_keys.masks.errors import KeysError
from stip_keys.masks.key_file import read_master_key
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.passphrase import PassphraseSource

# Gradio is an extra: import nothing of stip_client.web up here.

# Turns off what Gradio and huggingface_hub would send. They read it when they are imported.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def add_parser(commands: Commands) -> None:
    parser = add_server_command(
        commands,
        "web",
        bundle_required=False,
        help="see the three parties at work, on a page in the browser",
        description="Serve a page with three panes: the user's prompt and reply, the masks in "
        "use, and what the server receives. A chart shows where the time of every step went.",
    )
    page = parser.add_argument_group("page")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen here; beyond this machine everyone who reaches it can use the page "
        "(default: %(default)s)",
    )
    page.add_argument(
        "--port", type=port, default=7860, help="0 takes a free one (default: %(default)s)"
    )
    page.add_argument(
        "--share",
        action="store_true",
        help="make the page public through Gradio's relay, a third party that then sees the page, "
        "prompts and replies in plain text",
    )
    page.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the developer's master key: also show the masks inside the layers",
    )
    page.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="read the passphrase of a wrapped --key from this file's first line (default: prompt "
        "for it)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    require("web", ("gradio",), "the page")
    from stip_client.web.page_model import ModelLoader

    with listening_socket(arguments.host, arguments.port) as listener:
        local = is_local(listener)
        exposed = arguments.share or not local
        if exposed and arguments.bundle is None:
            raise RequestError(
                "a page that others reach loads no folder but the one that --bundle names",
                hint="give --bundle, or leave out --share and --host",
            )
        loader = ModelLoader(
            arguments.server,
            access(arguments),
            _master_key(arguments.key, arguments.passphrase_file),
            only=arguments.bundle if exposed else None,
        )
        if arguments.bundle is not None:
            loader.load(str(arguments.bundle))  # report a wrong bundle now
        if not local:
            say(
                "warning: everyone who reaches this address can use the page and see the masks on "
                "it; prompts and replies travel in plain text"
            )
        if arguments.share:
            say(
                "warning: --share gives the page with the masks on it, your prompts and the "
                "replies, in plain text, to a third party's relay and to everyone who knows the "
                "address"
            )
        os.environ.update(_QUIET)
        # importing takes seconds: do it after all checks
        from stip_client.web.server import make_app, serve, share

        app = make_app(loader, str(arguments.bundle or ""), local=not exposed)
        if arguments.share:
            print(f"shared at {share(listener)}", flush=True)
        print(f"listening on {url(listener)}", flush=True)
        received = serve(app, listener)
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _master_key(path: Path | None, passphrase_file: Path | None) -> MasterKey | None:
    if path is None:
        if passphrase_file is not None:
            raise RequestError("--passphrase-file opens the file of --key, and --key is not given")
        return None
    try:
        return read_master_key(path, PassphraseSource(passphrase_file))
    except KeysError as error:
        raise RequestError(str(error), hint=error.hint) from error
