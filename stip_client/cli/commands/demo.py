"""stip-client demo: run the three parties as three processes with a fresh key, and compare.

Uses only the parties' command lines, in a temporary folder that is removed afterwards. The server
process gets only the server bundle.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from stip_client.cli.connection_options import Commands
from stip_client.cli.signals import sigterm_raises
from stip_client.cli.terminal import shown_floats
from stip_client.errors import ClientError
from stip_model.bundle.modes import HEADS, SCHEMES

DEFAULT_PROMPT = "Hello, how are you?"
STOP_SECONDS = 10
# The error lines of our command lines.
_REPORTED = re.compile(r"^stip-\w+: (error|hint): (.*)$", re.MULTILINE)


class DemoError(ClientError):
    """One of the three parties failed."""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("demo", help="run all three parties on this machine")
    parser.add_argument(
        "prompt",
        nargs="?",
        default=DEFAULT_PROMPT,
        metavar="PROMPT",
        help="what to ask (default: %(default)s)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=64,
        metavar="N",
        help="end after this many tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="checkpoint (default: the demo model)"
    )
    for option, known, default in (
        ("--scheme", SCHEMES, "permutation"),
        ("--head", HEADS, "server"),
    ):
        text = "as stip-keys convert takes it (default: %(default)s)"
        parser.add_argument(option, choices=known, default=default, help=text)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        stack.enter_context(sigterm_raises())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stip-demo-")))
        checkpoint = arguments.model or stack.enter_context(
            resources.as_file(resources.files("stip_client") / "cli" / "demo_model")
        )

        masked_model, plain = folder / "masked", folder / "plain"
        mode: list[object] = ["--scheme", arguments.scheme, "--head", arguments.head]
        if arguments.scheme == "none":
            _say("developer", "converts the model without a key: scheme none hides nothing")
        else:
            _say("developer", "makes a fresh key and masks the model with it")
            _tool("stip_keys", "new", "-o", folder / "master.key")
            mode += ["--key", folder / "master.key"]
        _tool("stip_keys", "convert", checkpoint, "-o", masked_model, *mode)
        _tool("stip_keys", "convert", checkpoint, "-o", plain, "--scheme", "none")

        _say("client", f"prompt    {arguments.prompt}")
        masked = _ask(stack, masked_model, arguments)
        original = _ask(stack, plain, arguments)

    _say("server", f"received  {shown_floats(masked['received'])} ...")
    _say("", f"unmasked  {shown_floats(original['received'])} ...")
    _say("client", f"reply     {masked['text']}")
    tokens = len(masked["token_ids"])
    if masked["token_ids"] != original["token_ids"]:
        _say("check", f"the reply DIFFERS from the original model's: {original['text']}")
        return 1
    _say("check", f"all {tokens} tokens equal the original model's reply")
    return 0


def _say(party: str, text: str) -> None:
    print(f"{party:<10} {text}", flush=True)


def _ask(stack: ExitStack, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve the server bundle and generate with the client bundle; return the client's JSON."""
    address = stack.enter_context(_server(output / "server"))
    answer = _tool(
        "stip_client",
        "generate",
        *("--server", address),
        *("--bundle", output / "client"),
        f"--prompt={arguments.prompt}",  # it may begin with a dash
        *("--max-new-tokens", arguments.max_new_tokens),
        "--echo",
        "--json",
    )
    return dict(json.loads(answer))


def _tool(module: str, *arguments: object) -> str:
    """Run a command line and return its standard output. Raises DemoError."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _failure(done.stderr, f"{module} failed with status {done.returncode}")
    return done.stdout


@contextmanager
def _server(bundle: Path) -> Iterator[str]:
    """Run a server process; yields its address."""
    command = [sys.executable, "-m", "stip_server", "--model", str(bundle)]
    command += ["--port", "0", "--allow-echo"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("listening on "):
                process.wait()
                log.seek(0)
                raise _failure(log.read(), "the server did not start")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _failure(stderr: str, otherwise: str) -> DemoError:
    """The error that a party's command line reported."""
    reported = dict(_REPORTED.findall(stderr))
    if "error" in reported:
        return DemoError(reported["error"], hint=reported.get("hint"))
    return DemoError(f"{otherwise}: {stderr.strip()}")
