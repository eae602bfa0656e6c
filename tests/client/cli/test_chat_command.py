"""stip-client chat, typed at a terminal and piped: it sends what is new and forgets nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import stip_client
from stip_client import Client
from stip_client.cli.terminal import printable
from tests.support.command_line import assert_no_traceback, assert_refused
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.servers.watched import Watched, watched_server
from tests.support.typist import CTRL_C, CTRL_D, typing
from tests.support.waiting import PATIENCE, eventually

DEMO_MODEL = Path(stip_client.__file__).parent / "cli" / "demo_model"
# Choosing almost at random, the model hardly ever ends its reply.
RAMBLING = ("--temperature", 100, "--seed", 5, "--max-new-tokens", 900)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO_MODEL, tmp_path_factory.mktemp("chat") / "bundles")


@pytest.fixture(scope="module")
def server(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_server(bundles / "server", tmp_path_factory.mktemp("chat-server")) as server:
        yield server


def options(server: Server | Watched, bundles: Path) -> tuple[object, ...]:
    return ("chat", "--server", server.address, "--bundle", bundles / "client")


def figure(table: str, name: str) -> list[int]:
    """The last reply's and the whole conversation's figure in a table of /stats."""
    (line,) = [line for line in table.splitlines() if line.startswith(name)]
    return [int(each) for each in line.removeprefix(name).split()]


def test_a_conversation_at_a_terminal(server: Watched, bundles: Path, tmp_path: Path) -> None:
    with typing(tmp_path, *options(server, bundles)) as user:
        user.until("Ctrl-D leaves\r\n> ")
        assert "Hello" in user.ask("Hello!")
        assert "Paris" in user.ask("What is the capital of France?")
        assert "/reset" in user.ask("/help")

        assert "saved 4 messages" in user.ask("/save talk.json")
        assert "talk.json exists" in user.ask("/save talk.json")
        assert "no command /burn" in user.ask("/burn")

        assert "system prompt is set" in user.ask("/system You are a parrot.")
        assert "forgotten" in user.ask("/reset")
        user.ask("Who are you?")
        assert "saved 3 messages" in user.ask("/save second.json")
        user.type(CTRL_D)
        assert user.leaves() == 0
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [each["role"] for each in saved] == ["user", "assistant"] * 2
    assert saved[2]["content"] == "What is the capital of France?"
    assert "Paris" in saved[3]["content"]
    assert stat.S_IMODE((tmp_path / "talk.json").stat().st_mode) == 0o600
    second = json.loads((tmp_path / "second.json").read_text())
    assert second[0] == {"role": "system", "content": "You are a parrot."}
    assert second[1]["content"] == "Who are you?"


def test_only_new_tokens_are_sent(server: Watched, bundles: Path) -> None:
    questions = ("Hello!", "What is the capital of France?", "And what is 3 plus 4?")
    before = server.metric("stip_tokens_total", kind="prompt")
    done = run_tool(
        "stip_client",
        *options(server, bundles),
        *("--draft", "off"),
        input="\n/stats\n".join([*questions, ""]),
    )
    assert done.returncode == 0, done.stderr
    tables = done.stderr.split("last reply")[1:]
    prompts = [figure(table, "prompt tokens")[0] for table in tables]
    sent = [figure(table, "of them sent")[0] for table in tables]
    replies = [figure(table, "reply tokens")[0] for table in tables]
    # the session holds the prompt and the reply but for its last token, which was never sent
    assert sent == [
        prompts[0],
        prompts[1] - prompts[0] - (replies[0] - 1),
        prompts[2] - prompts[1] - (replies[1] - 1),
    ]
    # and the server counts the same
    assert server.metric("stip_tokens_total", kind="prompt") - before == sum(sent)
    assert figure(tables[2], "of them sent")[1] == sum(sent)


def test_ctrl_c_stops_a_reply_and_keeps_what_has_come(
    server: Watched, bundles: Path, tmp_path: Path
) -> None:
    with typing(tmp_path, *options(server, bundles), *RAMBLING) as user:
        user.until("> ")
        user.type("Hello!\n")
        user.until("Hello!\r\n")
        shown = user.until(".{20}")
        user.type(CTRL_C)
        shown += user.until(r"\[stopped\]\r\n> ")
        assert "saved 2 messages" in user.ask("/save stopped.json")
        # the session is as usable as the conversation
        user.type("And how are you?\n")
        user.until("And how are you\\?\r\n")
        user.until(".{20}")
        user.type(CTRL_C)
        user.until(r"\[stopped\]\r\n> ")
        prompts, sent = (
            figure(user.ask("/stats").replace("\r", ""), name)[0]
            for name in ("prompt tokens", "of them sent")
        )
        assert sent < prompts
        user.type("/quit\n")
        assert user.leaves() == 0
    question, reply = json.loads((tmp_path / "stopped.json").read_text())
    assert question == {"role": "user", "content": "Hello!"}
    assert reply["stopped"] is True
    said = printable(reply["content"]).replace("\n", "\r\n")
    assert shown.replace("^C", "").startswith(said)


def test_ctrl_c_clears_what_is_typed_and_leaves_where_nothing_is(
    server: Watched, bundles: Path, tmp_path: Path
) -> None:
    with typing(tmp_path, *options(server, bundles)) as user:
        user.until("> ")
        sleep(1)  # at first, it would be taken for one that came too late
        user.type("never mind")
        user.until("never mind")
        user.settle()
        user.type(CTRL_C)
        user.until("\n> ")
        assert "Paris" in user.ask("What is the capital of France?")
        sleep(1)
        user.type(CTRL_C)
        user.until("interrupted")
        assert user.leaves() == 130


def test_what_is_piped_gets_replies_and_nothing_else(server: Watched, bundles: Path) -> None:
    messages = "Hello!\n\nWhat is the capital of France?"
    done = run_tool("stip_client", *options(server, bundles), input=messages)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "Hello! How can I help you?",
        "The capital of France is Paris.",
    ]
    assert done.stderr == ""


def test_a_conversation_is_answered_as_a_whole(server: Watched, bundles: Path) -> None:
    with Client(server.address, bundles / "client") as client:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "My name is Anna."},
        ]
        first = "".join(piece.text for piece in client.generate(messages, max_new_tokens=64))
        messages += [
            {"role": "assistant", "content": first},
            {"role": "user", "content": "What is my name?"},
        ]
        second = "".join(piece.text for piece in client.generate(messages, max_new_tokens=64))
    done = run_tool(
        *("stip_client", *options(server, bundles), "--system", "Be brief."),
        input="My name is Anna.\nWhat is my name?\n",
    )
    assert done.stdout.splitlines() == [first, second]
    assert "Anna" in second


def test_a_conversation_beyond_the_context_says_what_to_do(bundles: Path) -> None:
    with server_process(bundles / "server", "--max-length", 40) as server:
        done = run_tool(
            "stip_client",
            *options(server, bundles),
            input=f"Hello!\n{'What is STIP? ' * 8}\n/reset\nHello!\n",
        )
    assert_refused(done, "the conversation has grown too long", hint="/reset begins a new one")
    assert done.stdout.splitlines() == ["Hello! How can I help you?"] * 2


def test_a_reply_that_fills_the_context_says_so(bundles: Path) -> None:
    with server_process(bundles / "server", "--max-length", 12) as server:
        done = run_tool("stip_client", *options(server, bundles), input="Hello!\n")
    assert "the context is full: /reset" in done.stderr


def test_a_lost_server_costs_the_message_and_not_the_conversation(
    bundles: Path, tmp_path: Path
) -> None:
    with (
        server_process(bundles / "server") as server,
        typing(tmp_path, *options(server, bundles), "--patience", 0) as user,
    ):
        user.until("> ")
        assert "Paris" in user.ask("What is the capital of France?")
        server.process.kill()
        server.process.wait()
        answer = user.ask("What is 3 plus 4?")
        assert "error: no connection to" in answer and "hint: " in answer
        assert "saved 2 messages" in user.ask("/save left.json")
        port = server.address.rpartition(":")[2]
        with server_process(bundles / "server", "--port", port):
            # the channel may still wait before it connects anew
            eventually(lambda: "7" in user.ask("What is 3 plus 4?"))
        assert "saved 4 messages" in user.ask("/save again.json")
        assert_no_traceback(user.everything)
    assert "Paris" in json.loads((tmp_path / "left.json").read_text())[1]["content"]


def test_ctrl_c_does_not_wait_for_a_server_that_is_silent(bundles: Path, tmp_path: Path) -> None:
    with (
        server_process(bundles / "server") as server,
        typing(tmp_path, *options(server, bundles)) as user,
    ):
        user.until("> ")
        assert "Paris" in user.ask("What is the capital of France?")
        server.process.send_signal(signal.SIGSTOP)
        user.type("What is 3 plus 4?\n")
        user.until("4\\?\r\n")
        user.settle()  # it waits for the server
        user.type(CTRL_C)
        assert "the message is taken back" in user.until("\n> ")
        server.process.send_signal(signal.SIGCONT)
        assert "Japan" in user.ask("What is the capital of Japan?")
        assert "saved 4 messages" in user.ask("/save talk.json")


def test_sigterm_closes_the_session(server: Watched, bundles: Path, tmp_path: Path) -> None:
    with typing(tmp_path, *options(server, bundles)) as user:
        user.until("> ")
        user.ask("Hello!")
        eventually(lambda: server.load().sessions == 1)
        user.settle()
        user.process.terminate()
        assert user.leaves() == 143
        assert_no_traceback(user.everything)
    eventually(lambda: server.load().sessions == 0, patience=5)


def test_bytes_that_are_no_text_are_refused_and_the_conversation_goes_on(
    server: Watched, bundles: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stip_client", *map(str, options(server, bundles))],
        input=b"\xff\xfe\nHello!\n",
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert b"error: the message is not valid UTF-8 text" in done.stderr
    assert_no_traceback(done.stderr.decode())
    assert done.stdout == b"Hello! How can I help you?\n"
    assert done.returncode == 1


def test_a_bundle_without_a_chat_template_holds_no_conversation(
    tiny_server: Server, tiny_bundles: Path
) -> None:
    done = run_tool("stip_client", *options(tiny_server, tiny_bundles), input="Hello!\n")
    assert_refused(done, "no chat template", hint="--raw")


def test_a_model_that_writes_commands_to_the_terminal_is_shown_and_not_obeyed(
    tmp_path: Path,
) -> None:
    """Of every token but ten the text is a colour that a terminal would change to."""
    checkpoint = RandomCheckpoint().write(tmp_path / "checkpoint")
    words = {f"w{n}" if n < 10 else f"\x1b[{n}m": n for n in range(RandomCheckpoint.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    bundles = convert(checkpoint, tmp_path / "bundles")
    with server_process(bundles / "server") as server:
        where = ("--server", server.address, "--bundle", bundles / "client")
        with typing(tmp_path, "chat", *where, "--max-new-tokens", 20) as user:
            user.until("> ")
            assert r"\x1b[" in user.ask("w1")
            assert "\x1b" not in user.everything
        with typing(tmp_path, "generate", *where, "--prompt", "w1", "--quiet") as user:
            assert user.leaves() == 0
            assert r"\x1b[" in user.everything
            assert "\x1b" not in user.everything
        # a program gets what the model says
        done = run_tool("stip_client", "generate", *where, "--prompt", "w1")
        assert "\x1b[" in done.stdout
