"""What `stip-client web` refuses to start, and that nothing else needs Gradio."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import assert_refused
from tests.support.parties import run_tool
from tests.support.waiting import PATIENCE


def web(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_tool("stip_client", "web", "--port", 0, *arguments)


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def test_without_the_extra_it_says_how_to_get_it() -> None:
    done = python(
        "import sys; sys.modules['gradio'] = None; "
        "from stip_client.cli.main import main; sys.exit(main(['web']))"
    )
    assert_refused(done, "gradio", hint='pip install ".[web]"')


def test_the_library_and_other_commands_do_not_import_gradio() -> None:
    done = python(
        "import sys, stip_client.cli.main; stip_client.cli.main._parser(); "
        "print({'gradio', 'fastapi', 'starlette', 'uvicorn', 'mlx'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_an_occupied_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_tool("stip_client", "web", "--port", port)
    assert_refused(done, f"127.0.0.1:{port}", "in use", hint="--port")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    assert_refused(web("--bundle", tmp_path), str(tmp_path), hint="stip-keys convert")


def test_a_master_key_of_another_bundle_is_refused(tiny_bundles: Path, master_key: Path) -> None:
    done = web("--bundle", tiny_bundles, "--key", master_key)
    assert_refused(done, "not made with the master key", hint="--key")


def test_a_client_key_is_no_master_key(bundles: Path) -> None:
    """And nothing that is in it is said."""
    key = bundles / "client" / "client.key"
    done = web("--bundle", bundles, "--key", key)
    assert_refused(done, "not a stip-master-key file")
    assert "residual/" not in done.stderr


@pytest.mark.parametrize("exposure", [("--share",), ("--host", "0.0.0.0")])
def test_where_others_reach_it_the_folder_must_be_named(exposure: tuple[str, ...]) -> None:
    assert_refused(web(*exposure), "--bundle")
