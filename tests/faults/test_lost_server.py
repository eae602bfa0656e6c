"""A server that cannot be reached, dies or falls silent: the client notices, and says so."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from stip_client import AsyncClient, Client, ConnectionLostError, SessionLostError
from stip_client.transport.endpoint import CHANNEL_OPTIONS
from tests.support.command_line import assert_refused
from tests.support.parties import Server, run_tool
from tests.support.servers.watched import watched_server
from tests.support.waiting import PATIENCE, eventually

# What the client says when it has waited for an answer until its time-out: for minutes.
TIMED_OUT = "no answer from"


@contextmanager
def talking(server: Server, bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """`stip-client generate` in the middle of a long answer."""
    command = [sys.executable, "-m", "stip_client", "generate", "--server", server.address]
    command += ["--bundle", str(bundle), "--prompt", "w5 w6", "--max-new-tokens", "90000"]
    command += ["--patience", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(30).startswith("w")
        yield process
        if process.poll() is None:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_command_line_notices_a_server_lost_in_mid_answer(
    signum: int, own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server()
    with talking(server, talking_bundles / "client") as client:
        server.process.send_signal(signum)
        stdout, stderr = client.communicate(timeout=PATIENCE)
    done = subprocess.CompletedProcess([], client.returncode, stdout, stderr)
    assert_refused(done, f"no connection to {server.address}", hint="server running")
    assert TIMED_OUT not in stderr


def test_json_tells_what_had_come_and_the_error(tmp_path: Path, talking_bundles: Path) -> None:
    with watched_server(talking_bundles / "server", tmp_path) as server:
        command = [sys.executable, "-m", "stip_client", "generate", "--server", server.address]
        command += [
            "--bundle",
            str(talking_bundles / "client"),
            "--prompt",
            "w5 w6",
            "--patience",
            "0",
        ]
        command += ["--max-new-tokens", "90000", "--draft", "off", "--json"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            eventually(lambda: server.metric("stip_tokens_total", kind="decode") >= 5)
            server.server.process.kill()
            stdout, stderr = client.communicate(timeout=PATIENCE)
    done = subprocess.CompletedProcess([], client.returncode, stdout, stderr)
    assert_refused(done, f"no connection to {server.address}", hint="server running")
    answer = json.loads(stdout)
    assert f"error: {answer['error']}\n" in stderr
    assert answer["prompt_tokens"] == 2
    assert answer["finish_reason"] is None
    tokens = answer["token_ids"]
    assert len(tokens) == len(answer["steps"]) >= 4
    assert answer["text"] == " ".join(f"w{token}" for token in tokens)


def test_a_frozen_server_is_noticed_and_nothing_is_lost_when_it_thaws(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server()
    with (
        Client(server.address, talking_bundles / "client", patience=0) as client,
        client.session() as session,
    ):
        session.forward([5, 6, 7])
        right = session.forward([8], rows="last")
        session.rollback(3)

        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ConnectionLostError) as lost:
            session.forward([8], rows="last")
        assert TIMED_OUT not in str(lost.value)
        assert session.position == 3

        server.process.send_signal(signal.SIGCONT)
        np.testing.assert_allclose(session.forward([8], rows="last"), right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_asynchronous_client_notices_a_server_lost_in_mid_answer(
    signum: int, own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server()

    async def generate() -> None:
        async with AsyncClient(server.address, talking_bundles / "client", patience=0) as client:
            pieces = client.generate([5, 6], max_new_tokens=90_000)
            await anext(pieces)
            server.process.send_signal(signum)
            with pytest.raises(ConnectionLostError) as lost:
                # more may have been on the way
                await read_to_the_end(pieces)
            assert TIMED_OUT not in str(lost.value)

    asyncio.run(generate())


def test_a_silent_server_is_noticed_within_five_seconds() -> None:
    """gRPC pings a server that is silent for keepalive_time, and waits keepalive_timeout."""
    options = dict(CHANNEL_OPTIONS)
    silence = options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"]
    assert silence < 5000
    # a ping that gRPC sent for its own ends stands in for a keepalive ping
    assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"]


async def read_to_the_end(pieces: AsyncIterator[object]) -> None:
    async for _ in pieces:
        pass


def test_a_session_does_not_outlive_its_server(
    own_server: Callable[..., Server], talking_bundles: Path
) -> None:
    server = own_server()
    port = server.address.rpartition(":")[2]
    with (
        Client(server.address, talking_bundles / "client", patience=0) as client,
        client.session() as session,
    ):
        session.forward([5, 6, 7])
        server.process.kill()
        server.process.wait()
        with pytest.raises(ConnectionLostError):
            session.forward([8])
        own_server("--port", port)
        with pytest.raises(SessionLostError):
            # the channel may still wait before it connects anew
            retry_connecting(lambda: session.forward([8]))


def retry_connecting(call: Callable[[], object]) -> None:
    deadline = monotonic() + PATIENCE
    while True:
        try:
            call()
        except ConnectionLostError:
            assert monotonic() < deadline
            sleep(0.2)
        else:
            return


@pytest.fixture
def closed_port() -> str:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


def test_a_closed_port_is_an_error_at_once(closed_port: str, talking_bundles: Path) -> None:
    done = run_tool(
        *("stip_client", "generate", "--server", closed_port, "--patience", 3600),
        *("--bundle", talking_bundles / "client", "--prompt", "w5"),
    )
    assert_refused(done, f"no connection to {closed_port}", hint="is the server running")
    assert done.stdout == ""


# a single call has gRPC's own deadline
SILENT = {"session": "no answer from {} within 1 s", "model_info": "{}: Deadline Exceeded"}


@pytest.mark.parametrize("call", SILENT)
def test_a_silent_server_is_an_error_within_the_timeout(
    call: str, black_hole: str, talking_bundles: Path
) -> None:
    with (
        Client(black_hole, talking_bundles / "client", connect_timeout=1.0) as client,
        pytest.raises(ConnectionLostError, match=SILENT[call].format(black_hole)),
    ):
        getattr(client, call)()


@pytest.mark.parametrize("call", SILENT)
def test_a_silent_server_is_an_error_within_the_asynchronous_timeout(
    call: str, black_hole: str, talking_bundles: Path
) -> None:
    async def ask() -> None:
        async with AsyncClient(
            black_hole, talking_bundles / "client", connect_timeout=1.0
        ) as client:
            with pytest.raises(ConnectionLostError, match=SILENT[call].format(black_hole)):
                await getattr(client, call)()

    asyncio.run(ask())
