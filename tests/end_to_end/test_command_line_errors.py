"""What a user can get wrong on a command line: 2 for wrong usage, 1 for an error, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stip_client
from stip_client.cli.terminal import say
from tests.support.command_line import assert_no_traceback, assert_refused
from tests.support.parties import Server, run_tool, server_process
from tests.support.waiting import PATIENCE

KEYS, SERVER, CLIENT = "stip_keys", "stip_server", "stip_client"
GENERATE = [CLIENT, "generate", "--server", "{server}", "--bundle", "{model}/client"]
CONVERT = [KEYS, "convert", "{source}", "-o", "{out}"]
SERVE = [SERVER, "--model", "{model}/server"]

WRONG_USAGE = {
    "no command": ([KEYS], "COMMAND"),
    "no such command": ([KEYS, "burn"], "burn"),
    "no output": ([KEYS, "convert", "{source}"], "-o"),
    "no such dtype": ([*CONVERT, "--dtype", "int8"], "int8"),
    "blocks as text": ([*CONVERT, "--blocks", "many"], "many"),
    "blocks as a fraction": ([*CONVERT, "--blocks", "2.5"], "2.5"),
    "no such scheme": ([*CONVERT, "--scheme", "rot13"], "rot13"),
    "two keys": ([*CONVERT, "--key", "a.key", "--base-seed", "1"], "not allowed"),
    "server without model": ([SERVER], "--model"),
    "server dtype": ([*SERVE, "--dtype", "int4"], "int4"),
    "port too large": ([*SERVE, "--port", "65536"], "65536"),
    "port as text": ([*SERVE, "--port", "http"], "http"),
    "no sessions": ([*SERVE, "--max-sessions", "0"], "'0' is not a positive number"),
    "sessions beyond counting": ([*SERVE, "--max-sessions", "9999999999"], "9999999999"),
    "streams beyond counting": ([*SERVE, "--max-streams", "9999999999"], "9999999999"),
    "endless time to live": ([*SERVE, "--session-ttl", "inf"], "inf"),
    "negative grace": ([*SERVE, "--grace", "-1"], "-1"),
    "no such BLAS": ([*SERVE, "--blas", "mkl"], "mkl"),
    "client without command": ([CLIENT], "COMMAND"),
    "no prompt": (GENERATE, "--prompt"),
    "token on the command line": ([*GENERATE, "--prompt", "w5", "--token", "secret"], "--token"),
    "draft": ([*GENERATE, "--prompt", "w5", "--draft", "some"], "neither auto, off nor a number"),
    "draft below 0": (
        [*GENERATE, "--prompt", "w5", "--draft=-1"],
        "neither auto, off nor a number",
    ),
    "tokens as text": ([*GENERATE, "--prompt", "w5", "--max-new-tokens", "few"], "few"),
}
ERRORS = {
    "key for no scheme": ([*CONVERT, "--scheme", "none", "--base-seed", "1"], "takes no key"),
    "inspect nothing": ([KEYS, "inspect", "{out}"], "neither a key file nor a bundle"),
    "inspect a checkpoint": ([KEYS, "inspect", "{source}"], "neither a key file nor a bundle"),
    "inspect JSON": ([KEYS, "inspect", "{source}/config.json"], "not a key file"),
    "inspect weights": (
        [KEYS, "inspect", "{source}/model-00001-of-00002.safetensors"],
        "not a key file",
    ),
    "key in no folder": ([KEYS, "new", "-o", "{out}/a/b.key"], "b.key"),
    "longer than the model": ([*SERVE, "--max-length", "100001"], "100001 is beyond the model"),
    "serve nothing": ([SERVER, "--model", "{out}"], "cannot read"),
    "serve a file": ([SERVER, "--model", "{source}/config.json"], "cannot read"),
    "no tokens": ([*GENERATE, "--prompt", "w5", "--max-new-tokens", "0"], "max_new_tokens is 0"),
    "empty prompt": ([*GENERATE, "--prompt", ""], "prompt is empty"),
    "prompt of no tokens": ([*GENERATE, "--prompt", "   "], "prompt is empty"),
    "cold": ([*GENERATE, "--prompt", "w5", "--temperature", "-1"], "temperature is -1"),
    "no temperature": ([*GENERATE, "--prompt", "w5", "--temperature", "nan"], "temperature is nan"),
    "top_p": ([*GENERATE, "--prompt", "w5", "--top-p", "1.5"], "top_p is 1.5"),
    "seed": ([*GENERATE, "--prompt", "w5", "--seed", "-1"], "seed is -1"),
    "empty stop": ([*GENERATE, "--prompt", "w5", "--stop", ""], "stop string is empty"),
    "echo where it is not allowed": ([*GENERATE, "--prompt", "w5", "--echo"], "does not echo"),
    "no bundle": (
        [CLIENT, "generate", "--bundle", "{out}", "--prompt", "w5"],
        "cannot read",
    ),
    "demo of nothing": ([CLIENT, "demo", "--model", "{out}"], "not a folder"),
}


@pytest.fixture
def places(
    talking_bundles: Path, talking_checkpoint: Path, strict_server: Server, tmp_path: Path
) -> dict[str, object]:
    return {
        "model": talking_bundles,
        "source": talking_checkpoint,
        "server": strict_server.address,
        "out": tmp_path / "out",
    }


@pytest.mark.parametrize("name", WRONG_USAGE)
def test_wrong_usage_exits_with_2_and_the_usage(name: str, places: dict[str, object]) -> None:
    command, says = WRONG_USAGE[name]
    done = run_tool(*(part.format(**places) for part in command))
    assert_refused(done, says, status=2)
    assert done.stderr.startswith("usage: stip-")
    assert "_port" not in done.stderr  # the names of our functions are not the user's


@pytest.mark.parametrize(
    "address", ["", "localhost", ":50051", "localhost:", "localhost:99999", "h:0", "h:x", "::1:5"]
)
def test_an_address_without_host_or_port_is_wrong_usage(
    address: str, talking_bundles: Path
) -> None:
    done = run_tool(CLIENT, "generate", "--server", address, "--bundle", talking_bundles / "client")
    assert_refused(done, f"{address!r} is not HOST:PORT", status=2)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_and_exits_with_1(name: str, places: dict[str, object]) -> None:
    command, says = ERRORS[name]
    done = run_tool(*(part.format(**places) for part in command))
    assert_refused(done, says)
    assert done.stdout == "" or name == "demo of nothing"


def test_an_error_within_the_demo_is_told_in_the_words_of_the_party_that_met_it() -> None:
    done = run_tool(CLIENT, "demo", "")
    assert_refused(done, "stip-client: error: the prompt is empty")
    assert done.stderr.count("error") == 1


def test_json_of_an_error_before_the_first_token(talking_bundles: Path) -> None:
    done = run_tool(
        *(CLIENT, "generate", "--server", "localhost:1", "--bundle", talking_bundles / "client"),
        *("--prompt", "w5", "--json"),
    )
    assert_refused(done, "no connection to localhost:1")
    answer = json.loads(done.stdout)
    assert f"error: {answer['error']}\n" in done.stderr
    assert (answer["text"], answer["token_ids"], answer["finish_reason"]) == ("", [], None)


def test_a_reply_that_cannot_be_so_long_is_told_of(talking_bundles: Path) -> None:
    with server_process(talking_bundles / "server", "--max-length", 8) as server:
        command = [
            CLIENT,
            "generate",
            "--server",
            server.address,
            "--bundle",
            talking_bundles / "client",
        ]
        command += ["--prompt", "w5 w6 w7", "--max-new-tokens"]
        # the last token is not sent back to a session, so it takes no place there
        fits, longer = run_tool(*command, 6), run_tool(*command, 7)
        quiet = run_tool(*command, 7, "--quiet")
    assert longer.stdout == fits.stdout == quiet.stdout
    assert len(fits.stdout.split()) == 6
    assert "note" not in fits.stderr
    assert "note: of --max-new-tokens 7 only 6 fit: the context holds 8 tokens" in longer.stderr
    assert quiet.stderr == ""


@pytest.mark.parametrize("verbosity", [None, "INFO"])
def test_grpc_says_nothing_of_its_own_unless_it_is_asked_to(
    verbosity: str | None, talking_bundles: Path, strict_server: Server
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if verbosity is not None:
        environment["GRPC_VERBOSITY"] = verbosity
    command = (CLIENT, "generate", "--server", strict_server.address, "--tls", "--prompt", "w5")
    done = run_tool(*command, "--bundle", talking_bundles / "client", env=environment)
    assert_refused(done, "no connection to", hint="does not speak TLS")
    assert ("ssl_transport_security" in done.stderr) == (verbosity is not None)


def test_the_package_holds_what_it_says_and_imports_it_when_asked() -> None:
    assert all(getattr(stip_client, name) is not None for name in stip_client.__all__)
    assert set(stip_client.__all__) <= set(dir(stip_client))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stip_client.nothing
    code = "import stip_client, sys; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_prompt_longer_than_the_context_is_refused(
    talking_bundles: Path, strict_server: Server
) -> None:
    done = run_tool(
        *(
            CLIENT,
            "generate",
            "--server",
            strict_server.address,
            "--bundle",
            talking_bundles / "client",
        ),
        *("--prompt", "-"),
        input="w5 " * 100_001,
    )
    assert_refused(done, "100001 tokens are beyond the session's maximum of 100000")


@pytest.mark.parametrize("where", ["argument", "standard input"])
def test_a_prompt_that_is_not_text_is_refused(
    where: str, talking_bundles: Path, strict_server: Server
) -> None:
    command = [sys.executable, "-m", CLIENT, "generate", "--server", strict_server.address]
    command += ["--bundle", str(talking_bundles / "client"), "--prompt"]
    not_utf8 = b"w5 \xff\xfe"
    done = subprocess.run(
        [*command, not_utf8 if where == "argument" else "-"],
        input=b"" if where == "argument" else not_utf8,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    stderr = done.stderr.decode()
    assert_no_traceback(stderr)
    assert done.returncode == 1
    assert "stip-client: error: " in stderr


def test_a_reader_that_goes_away_is_no_error(talking_bundles: Path, strict_server: Server) -> None:
    command = [sys.executable, "-m", CLIENT, "generate", "--server", strict_server.address]
    command += [
        "--bundle",
        str(talking_bundles / "client"),
        "--prompt",
        "w5",
        "--max-new-tokens",
        "2000",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        stderr = process.stderr.read()
    assert_no_traceback(stderr)
    assert "error" not in stderr
    assert process.returncode == 141


def test_what_a_server_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: \x1b[2Jgone\n\u202esdrawkcab, 日本語")
    assert capsys.readouterr().err == (
        "stip-client: error: \\x1b[2Jgone\\n\\u202esdrawkcab, 日本語\n"
    )
