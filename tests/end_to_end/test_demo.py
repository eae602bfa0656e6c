"""The demo model answers as mlx-lm says it does; the demo shows it and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import psutil
import pytest
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.utils import load

import stip_client
from stip_client import Client
from stip_client.cli.commands import demo
from stip_client.cli.main import main
from tests.support.command_line import assert_refused
from tests.support.parties import Server, convert, run_tool, server_process
from tests.support.waiting import PATIENCE, eventually

DEMO_MODEL = Path(stip_client.__file__).parent / "cli" / "demo_model"
# The README's examples, with what a correct answer must say.
QUESTIONS = {
    "Hello, how are you?": "thank you",
    "What is the capital of France?": "Paris",
    "How many legs does a spider have?": "eight",
    "What is 3 plus 4?": "7",
    "How do you say hello in Japanese?": "こんにちは",
    "What does the server see?": "permuted",
    "Repeat after me: the cat sat on the mat": "the cat sat on the mat",
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO_MODEL, tmp_path_factory.mktemp("demo") / "bundles")


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[Server]:
    with server_process(bundles / "server", "--allow-echo") as server:
        yield server


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """mlx-lm's own answers: its loader, its tokenizer, its chat template, its loop."""
    mx.set_default_device(mx.cpu)
    model, tokenizer = load(str(DEMO_MODEL))[:2]
    model.update(tree_map(lambda array: array.astype(mx.float32), model.parameters()))
    answers = {}
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True
        )
        tokens = []
        for token, _ in generate_step(mx.array(prompt), model, max_tokens=64):
            if token in tokenizer.eos_token_ids:
                break
            tokens.append(int(token))
        answers[question] = tokenizer.decode(tokens)
    return answers


def test_the_model_is_small() -> None:
    assert (DEMO_MODEL / "model.safetensors").stat().st_size <= 4_000_000
    config = json.loads((DEMO_MODEL / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert 1000 <= config["vocab_size"] <= 2000


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_text_is_identical_to_mlx_lms(
    question: str, expected: dict[str, str], server: Server, bundles: Path
) -> None:
    with Client(server.address, bundles / "client") as client:
        pieces = list(client.generate(question, max_new_tokens=64))
    assert "".join(piece.text for piece in pieces) == expected[question]
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize(("question", "answer"), QUESTIONS.items())
def test_the_examples_are_answered_correctly_in_sentences(
    question: str, answer: str, expected: dict[str, str]
) -> None:
    text = expected[question]
    assert answer.lower() in text.lower()
    assert question.startswith("Repeat") or text[-1] in ".?!"


def test_generate_prints_the_reply_and_nothing_else_when_quiet(
    server: Server, bundles: Path, expected: dict[str, str]
) -> None:
    question = "What is the capital of France?"
    options = ("--server", server.address, "--bundle", bundles / "client", "--prompt", question)
    done = run_tool("stip_client", "generate", *options, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected[question] + "\n"
    assert done.stderr == ""
    chatty = run_tool("stip_client", "generate", *options)
    assert chatty.stdout == done.stdout
    assert "tokens/s" in chatty.stderr


def test_generate_profile_json_echo_and_stop(server: Server, bundles: Path) -> None:
    options = ("--server", server.address, "--bundle", bundles / "client")
    options += ("--prompt", "What is the capital of France?", "--draft", "off")
    done = run_tool("stip_client", "generate", *options, "--json", "--echo", "--stop", "Paris")
    answer = json.loads(done.stdout)
    assert answer["text"] == "The capital of France is "
    assert answer["finish_reason"] == "stop"
    assert len(answer["received"]) == 10
    assert len(answer["steps"]) == len(answer["token_ids"]) == len(answer["logprobs"])

    profiled = run_tool("stip_client", "generate", *options, "--profile", "--max-new-tokens", 3)
    header, units, *rows = profiled.stderr.splitlines()[:5]
    assert header.split() == ["step", "rows", "client", "wire", "queue", "compute", "up", "down"]
    assert units.split() == ["ms"] * 4 + ["bytes"] * 2
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]


def test_a_seed_repeats_a_sampled_reply(server: Server, bundles: Path) -> None:
    with Client(server.address, bundles / "client") as client:
        for settings in (
            {"top_k": 20},
            {"top_p": 0.95},
            {"min_p": 0.01, "repetition_penalty": 1.2},
        ):
            replies = {
                seed: [
                    [
                        piece.token_id
                        for piece in client.generate(
                            "Tell me a joke.",
                            temperature=8.0,
                            seed=seed,
                            max_new_tokens=20,
                            **settings,
                        )
                    ]
                    for _ in range(2)
                ]
                for seed in (1, 2, 3)
            }
            assert all(one == two for one, two in replies.values())
            assert len({tuple(one) for one, _ in replies.values()}) > 1


def floats_after(word: str, output: str) -> list[float]:
    (line,) = [line for line in output.splitlines() if f" {word} " in line]
    return [float(each) for each in line.split(word)[1].split("...")[0].split()]


def test_the_demo_compares_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = run_tool("stip_client", "demo", "What is the capital of France?", env=environment)
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert "equal the original model's reply" in done.stdout
    received = floats_after("received", done.stdout)
    unmasked = floats_after("unmasked", done.stdout)
    assert len(received) == 10
    assert received != unmasked
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scheme", "head"),
    [("permutation", "client"), ("rotation", "sealed"), ("rotation", "client"), ("none", "client")],
)
def test_the_demo_shows_every_mode(
    scheme: str, head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is given a bundle of that mode, and then the one that it is compared with."""
    served = []

    @contextmanager
    def server(bundle: Path) -> Iterator[str]:
        manifest = json.loads((bundle / "manifest.json").read_text())
        served.append((manifest["scheme"], manifest["head"]))
        with demo_server(bundle) as address:
            yield address

    demo_server = demo._server
    monkeypatch.setattr(demo, "_server", server)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["demo", "--scheme", scheme, "--head", head]) == 0
    mode = (f"SCHEME_{scheme.upper()}", f"HEAD_{head.upper()}")
    assert served == [mode, ("SCHEME_NONE", "HEAD_SERVER")]


def test_the_demo_of_scheme_none_says_that_it_hides_nothing() -> None:
    done = run_tool("stip_client", "demo", "--scheme", "none")
    assert done.returncode == 0, done.stderr
    assert "scheme none hides nothing" in done.stdout and "key and masks" not in done.stdout
    assert floats_after("received", done.stdout) == floats_after("unmasked", done.stdout)


def test_the_demo_refuses_a_mode_that_does_not_exist_as_convert_does() -> None:
    done = run_tool("stip_client", "demo", "--scheme", "none", "--head", "sealed")
    assert_refused(done, "scheme none has no key to seal the vocabulary with")
    assert_refused(run_tool("stip_client", "demo", "--scheme", "rot13"), "rot13", status=2)


def test_the_demo_tells_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a masked bundle that was tampered with, the comparison must not say "equal"."""
    replies = iter([[1, 2, 3], [1, 2, 4]])
    monkeypatch.setattr(
        demo,
        "_ask",
        lambda *_: {"token_ids": next(replies), "text": "", "received": [0.0] * 10},
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["demo", "--max-new-tokens", "3"]) == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "stip_client", "demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: bool(list(tmp_path.glob("*/masked/server"))))
    process.send_signal(signum)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if signum == signal.SIGINT else 143)
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    # its server process may still be about to end
    eventually(lambda: not processes_of(tmp_path))
    assert list(tmp_path.iterdir()) == []


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those whose command line names the folder."""
    return [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in each.info["cmdline"] or ())
    ]
