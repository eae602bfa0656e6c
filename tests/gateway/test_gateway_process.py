"""The gateway as a process: who is let in, how requests are refused, how it starts and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI

from tests.support.gateways import Answer, Gateway, gateway_process, long_stream
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.waiting import PATIENCE, eventually

KEY = "the-key-of-this-test"
PAGE = "https://chat.example.org"
CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway-process")


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    with resources.as_file(resources.files("stip_client") / "cli" / "demo_model") as checkpoint:
        return convert(checkpoint, folder / "demo") / "client"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    """A full server: its one place is for whoever comes first."""
    arguments = ("--max-sessions", 1)
    with server_process(bundle.parent / "server", *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Server, bundle: Path, folder: Path) -> Iterator[Gateway]:
    """Without a key."""
    with gateway_process(server.address, bundle, folder) as gateway:
        yield gateway
        assert "internal error" not in gateway.log


@pytest.fixture(scope="module")
def locked(
    server: Server, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """With a key, and open to one web page."""
    folder = tmp_path_factory.mktemp("locked")
    file = folder / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    arguments = ("--api-key-file", file, "--allow-origin", PAGE)
    with gateway_process(server.address, bundle, folder, *arguments) as gateway:
        yield gateway
        assert KEY not in gateway.log


def refused(answer: Answer, status: int, code: str | None) -> str:
    """The message of a refusal."""
    assert answer.status == status
    assert answer.error["code"] == code
    return str(answer.error["message"])


@pytest.mark.parametrize("given", [None, "Bearer wrong", f"Bearer {KEY}x", KEY, "Bearer "])
def test_only_who_has_the_key_is_let_in(locked: Gateway, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/nowhere")):
        refused(locked.request(method, path, headers=headers), 401, "invalid_api_key")
    # whoever watches it has no key, and learns nothing else
    assert locked.request("GET", "/health", headers=headers).json == {"status": "ok"}


def test_package_is_let_in_with_the_key_and_told_of_a_wrong_one(locked: Gateway) -> None:
    with OpenAI(base_url=locked.url, api_key=KEY, max_retries=0) as client:
        assert client.models.list().data
    with (
        OpenAI(base_url=locked.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org:80", "192.168.0.7", ""])
def test_name_that_was_pointed_here_is_refused_without_a_key(gateway: Gateway, host: str) -> None:
    answer = gateway.request("GET", "/v1/models", headers={"Host": host})
    refused(answer, 403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080"])
def test_names_of_this_machine_are_taken(gateway: Gateway, host: str) -> None:
    assert gateway.request("GET", "/v1/models", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_web_pages_are_refused_unless_named(
    gateway: Gateway, locked: Gateway, headers: dict[str, str]
) -> None:
    for each in (gateway, locked):
        given = {**headers, "Authorization": f"Bearer {KEY}"}
        answer = each.request("POST", CHAT, b"{}", given)
        refused(answer, 403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers


def test_named_web_page_may_ask(locked: Gateway) -> None:
    preflight = locked.request(
        "OPTIONS",
        CHAT,
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        },
    )
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    given = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
    answer = locked.request("GET", "/v1/models", headers=given)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    without_key = locked.request("GET", "/v1/models", headers={"Origin": PAGE})
    refused(without_key, 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/embeddings", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/x", 405),
    ],
)
def test_wrong_path_or_method_is_an_error_object(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    refused(gateway.request(method, path), status, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"n": NaN}', b"[" * 100_000],
)
def test_body_that_is_no_json_object_is_refused(gateway: Gateway, body: bytes) -> None:
    refused(gateway.request("POST", CHAT, body, JSON), 400, "invalid_json")


def test_body_that_is_too_large_is_refused(gateway: Gateway) -> None:
    answer = gateway.request("POST", CHAT, b" " * (17 * 2**20), JSON)
    refused(answer, 413, "body_too_large")


def test_full_server_is_too_many_requests_for_now(gateway: Gateway, locked: Gateway) -> None:
    """One place on the server, and two gateways that each keep their conversation."""
    with (
        OpenAI(base_url=gateway.url, api_key="unused", max_retries=0) as first,
        OpenAI(base_url=locked.url, api_key=KEY, max_retries=0) as second,
    ):
        model = first.models.list().data[0].id
        messages = [{"role": "user", "content": "Hello!"}]
        body = {"model": model, "messages": messages, "max_tokens": 2}
        first.chat.completions.create(**body)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                second.chat.completions.create(**body, stream=stream)
            assert caught.value.code == "server_busy"
            assert int(caught.value.response.headers["retry-after"]) >= 1


def test_server_that_is_away_is_unavailable(bundle: Path, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    options = ("--patience", 0.1)
    with gateway_process(address, bundle, tmp_path, *options) as gateway:
        assert "no connection to" in gateway.log
        refused(gateway.request("GET", "/health"), 503, "server_unreachable")
        with OpenAI(base_url=gateway.url, api_key="unused", max_retries=0) as client:
            model = client.models.list().data[0].id
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model=model, prompt="Hello")
        assert caught.value.status_code == 503
        assert caught.value.code == "server_unreachable"


def test_server_that_is_lost_in_mid_stream_is_the_last_event(
    talking_bundles: Path, tmp_path: Path
) -> None:
    bundle, options = talking_bundles / "client", ("--patience", 0.1)
    with (
        server_process(talking_bundles / "server") as server,
        gateway_process(server.address, bundle, tmp_path, *options) as gateway,
        OpenAI(base_url=gateway.url, api_key="unused", max_retries=0) as client,
    ):
        stream = long_stream(client)
        server.process.kill()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "server_unreachable"
        assert gateway.stop(signal.SIGTERM) == 0


def test_log_tells_method_path_status_and_time_alone(gateway: Gateway) -> None:
    gateway.request("POST", f"{CHAT}?token=secret", b'{"model": "xylophone"}')
    gateway.request("GET", "/a%0Ab%1B[31m")
    eventually(lambda: "GET /a?b?[31m 404" in gateway.log)
    lines = gateway.log.splitlines()
    assert any(line.startswith(f"POST {CHAT} 400 ") and line.endswith(" ms") for line in lines)
    assert not any(word in gateway.log for word in ("secret", "xylophone"))


def serve(*arguments: object, **options: object):
    return run_tool("stip_client", "serve", *arguments, **options)


def test_occupied_port_is_said_in_a_sentence(server: Server, bundle: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as occupied:
        port = occupied.getsockname()[1]
        done = serve("--server", server.address, "--bundle", bundle, "--port", port)
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "hint: choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_are_served_with_a_key_alone(server: Server, bundle: Path) -> None:
    arguments = ("--server", server.address, "--bundle", bundle, "--port", 0)
    done = serve(*arguments, "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "the gateway has no API key" in done.stderr


def test_key_is_taken_from_the_environment(server: Server, bundle: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "STIP_GATEWAY_KEY": KEY}
    arguments = ("--host", "0.0.0.0")
    with gateway_process(server.address, bundle, tmp_path, *arguments, env=environment) as gateway:
        port = urlsplit(gateway.url).port
        gateway.url = f"http://127.0.0.1:{port}/v1"
        refused(gateway.request("GET", "/v1/models"), 401, "invalid_api_key")
        given = {"Authorization": f"Bearer {KEY}", "Host": "gateway.example.org"}
        assert gateway.request("GET", "/v1/models", headers=given).status == 200
        assert "plain text" in gateway.log


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_ends_it_cleanly(
    server: Server, bundle: Path, tmp_path: Path, signum: int, status: int
) -> None:
    with gateway_process(server.address, bundle, tmp_path) as gateway:
        assert gateway.request("GET", "/health").status == 200
        assert gateway.stop(signum) == status
        assert "Traceback" not in gateway.log
        assert gateway.log.splitlines()[1:] == (["stip-client: interrupted"] if status else [])


BLOCKED = """
import sys
sys.modules["starlette"] = None
from stip_client.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_missing_extra_is_said_with_the_command_that_installs_it(bundle: Path) -> None:
    command = [sys.executable, "-c", BLOCKED, "serve", "--bundle", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "stip-client: error: the gateway needs starlette, which is not installed",
        'stip-client: hint: pip install ".[gateway]" in the folder of this project',
    ]


def test_nothing_else_of_the_client_imports_the_extra() -> None:
    code = "import json, sys, stip_client.cli.main; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "stip_client" in modules
    assert not modules & {"pydantic", "starlette", "uvicorn", "anyio"}
