"""stip-client bench: it measures what it says, writes what it is told to, and fails aloud."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pytest

from stip_client import Client, ServerBusyError
from stip_client.cli.benchmark import concurrent_sessions
from stip_client.cli.benchmark.concurrent_sessions import generate_at_once
from stip_client.cli.reply_timing import ReplyTiming, rates
from stip_client.transport.step_profile import StepProfile
from tests.support.command_line import assert_refused
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.servers.watched import Watched, watched_server

SMALL = ("--prompt-tokens", 8, "--new-tokens", 6, "--repeats", 2)


def options(server: Server | Watched, bundles: Path) -> tuple[object, ...]:
    return ("stip_client", "bench", "--server", server.address, "--bundle", bundles / "client")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which every token ends a reply, unless that is ignored."""
    folder = tmp_path_factory.mktemp("bench")
    checkpoint = RandomCheckpoint().write(folder / "checkpoint")
    every = json.dumps({"eos_token_id": list(range(RandomCheckpoint.vocab_size))})
    (checkpoint / "generation_config.json").write_text(every)
    return convert(checkpoint, folder / "bundles")


@pytest.fixture(scope="module")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_server(bundles / "server", tmp_path_factory.mktemp("bench-server")) as server:
        yield server


@pytest.fixture(scope="module")
def full_server(bundles: Path) -> Iterator[Server]:
    """A server that has room for two sessions."""
    with server_process(bundles / "server", "--max-sessions", 2) as server:
        yield server


def test_the_table_json_and_plot_tell_of_every_number_of_sessions(
    server: Watched, bundles: Path, tmp_path: Path
) -> None:
    before = {kind: server.metric("stip_tokens_total", kind=kind) for kind in ("prompt", "decode")}
    files = ("--json", tmp_path / "bench.json", "--plot", tmp_path / "bench.svg")
    done = run_tool(*options(server, bundles), *SMALL, "--sessions", "1,3", *files)
    assert done.returncode == 0, done.stderr
    title, names, _, *rows = done.stdout.splitlines()
    assert "qwen2" in title
    assert names.split()[0] == "sessions"
    assert [row.split()[0] for row in rows] == ["1", "3"]

    found = json.loads((tmp_path / "bench.json").read_text())
    with Client(server.address, bundles / "client") as client:
        info = client.model_info()
    assert found["server"]["version"] == info.server_version
    assert found["server"]["model"]["vocab_size"] == info.model.vocab_size
    assert found["server"]["compute_dtype"] == "float32"
    assert found["client"]["machine"]["cores"] == os.cpu_count()
    assert datetime.fromisoformat(found["date"]).tzinfo is not None
    assert found["options"]["prompt_tokens"] == 8
    assert [each["sessions"] for each in found["figures"]] == [1, 3]
    for each in found["figures"]:
        assert each["tokens_per_round_trip"] == 1.0  # nothing is guessed unless it is asked for
        assert 0 < each["gap"] <= each["gap_p95"]
        assert each["bytes_down_per_token"] > 0
        # a row of float16 and what is around it
        hidden_size = info.model.hidden_size
        assert 2 * hidden_size < each["bytes_up_per_token"] < 2 * hidden_size + 100
    assert "<svg" in (tmp_path / "bench.svg").read_text()

    # every prompt was sent, so nothing was shared; and every reply had its length
    sessions = 4 * (2 + 1)  # of them 4 in the rounds that are not counted, with replies of 4
    prompt = server.metric("stip_tokens_total", kind="prompt") - before["prompt"]
    decode = server.metric("stip_tokens_total", kind="decode") - before["decode"]
    assert prompt == sessions * 8
    assert decode == 4 * 2 * (6 - 1) + 4 * (4 - 1)
    assert server.load().sessions == 0


def test_a_plot_is_drawn_as_png_too(server: Watched, bundles: Path, tmp_path: Path) -> None:
    done = run_tool(
        *options(server, bundles),
        *("--prompt-tokens", 2, "--new-tokens", 2, "--repeats", 1, "--sessions", 1),
        *("--plot", tmp_path / "bench.png"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(
    server: Watched, bundles: Path, tmp_path: Path
) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not installed')")
    environment = {**os.environ}
    environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
    command = (*options(server, bundles), *SMALL, "--sessions", 1)
    done = run_tool(*command, "--plot", tmp_path / "bench.png", env=environment)
    assert_refused(done, "--plot needs Matplotlib", hint='pip install ".[plot]"')
    assert done.stdout == ""
    # and it is imported for the plot alone
    assert run_tool(*command, env=environment).returncode == 0


def test_a_session_that_fails_is_an_error(full_server: Server, bundles: Path) -> None:
    done = run_tool(*options(full_server, bundles), *SMALL, "--sessions", "2,3")
    assert_refused(done, " of 3: ", hint="--wait")
    # what had been measured is there to be read
    assert [line.split()[0] for line in done.stdout.splitlines()[3:]] == ["2"]


def test_the_other_sessions_stop_when_one_fails(
    full_server: Server, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nobody waits for their end
    monkeypatch.setattr(concurrent_sessions, "STOP_SECONDS", 0.2)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(full_server.address, bundles / "client")) for _ in range(3)
        ]
        with pytest.raises(ServerBusyError, match="of 3: "):
            generate_at_once(clients, [[5, 6]] * 3, {"max_new_tokens": 500, "ignore_eos": True})
        # and are as usable as before
        replies = generate_at_once(clients, [[5, 6]] * 2, {"max_new_tokens": 3, "ignore_eos": True})
    assert [each.tokens for each in replies] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (("--sessions", "1,0"), "'0' is not a number, 1 or more", 2),
        (("--sessions", "1,,2"), "'' is not a number", 2),
        (("--new-tokens", 1), "'1' is not a number, 2 or more", 2),
        (("--plot", "bench.pdf"), "neither in .png nor in .svg", 2),
        (("--prompt-tokens", 100_000), "sessions hold", 1),
        (("--json", "/nowhere/bench.json"), "cannot write /nowhere/bench.json", 1),
        (("--plot", "/nowhere/bench.png"), "cannot write /nowhere/bench.png", 1),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    arguments: tuple[object, ...], says: str, status: int, server: Watched, bundles: Path
) -> None:
    done = run_tool(*options(server, bundles), *arguments)
    assert_refused(done, says, status=status)
    assert done.stdout == ""


def test_rates_are_of_the_tokens_after_the_first() -> None:
    def reply(arrivals: list[float], steps: list[StepProfile]) -> ReplyTiming:
        timing = ReplyTiming()
        timing.arrivals, timing.steps = arrivals, steps
        return timing

    def step(rows: int, up: int, down: int) -> StepProfile:
        return StepProfile(rows, 0.0, 0.0, 0.0, 0.0, bytes_up=up, bytes_down=down)

    prompt = step(100, 5000, 70)
    # four tokens after the first in two steps; two tokens in two steps; one that has no second
    one = reply([9.0, 10.0, 10.0, 10.0, 11.0], [prompt, step(3, 300, 60), step(1, 100, 20)])
    two = reply([5.0, 5.5, 7.0], [prompt, step(1, 100, 20), step(1, 100, 20)])
    three = reply([1.0], [prompt])
    found = rates([one, two, three])
    assert found.tokens_per_second == pytest.approx(6 / 4)
    assert found.bytes_up == pytest.approx(600 / 6)
    assert found.bytes_down == pytest.approx(120 / 6)
    assert found.tokens_per_round_trip == pytest.approx(6 / 4)
    assert one.gaps == [1.0, 0.0, 0.0, 1.0]
    assert rates([three]).tokens_per_second is None
