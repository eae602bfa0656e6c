"""The audit's prompts are the tokens that a client sends, each with the right kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from benchmarks.audit_tables.modes import DEMO_MODEL
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.bundle.prompt import encode_prompt
from stip_keys.audit.evidence.prompt_text import (
    TEMPLATE,
    USER,
    Prompt,
    PromptEncoder,
    common_template,
)
from stip_keys.audit.evidence.prompts import BUILT_IN, make_prompts
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.errors import CheckpointError
from stip_keys.masks.errors import KeysError
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import convert

PROMPTS = BUILT_IN.read_text("utf-8").splitlines()
TOKENIZER = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, whose tokenizer has no chat template."""
    folder = tmp_path_factory.mktemp("text") / "checkpoint"
    shutil.copytree(DEMO_MODEL, folder)
    (folder / "tokenizer_config.json").unlink()
    return folder


def change_template(folder: Path, template: str) -> Path:
    shutil.copytree(DEMO_MODEL, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def prompt_file(folder: Path, text: str) -> Path:
    path = folder / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["with the template", "without a template"])
def folder(request: pytest.FixtureRequest, without_template: Path) -> Path:
    return DEMO_MODEL if request.param == "with the template" else without_template


def test_prompts_are_the_tokens_that_the_client_sends(folder: Path, tmp_path: Path) -> None:
    bundle = ClientBundle(convert(folder, tmp_path / "bundles") / "client")
    text = PromptEncoder(folder)
    for prompt in (*PROMPTS, "こんにちは, naïve café 🙂"):
        assert text.encode(prompt).tokens.tolist() == encode_prompt(bundle, prompt)


def test_user_tokens_are_the_users_text(folder: Path) -> None:
    text = PromptEncoder(folder)
    for prompt in (*PROMPTS, "user", "こんにちは, naïve café 🙂"):
        encoded = text.encode(prompt)
        assert TOKENIZER.decode(encoded.tokens[encoded.kinds == USER]) == prompt


def test_a_token_of_the_users_that_the_template_also_has_is_the_users() -> None:
    encoded = PromptEncoder(DEMO_MODEL).encode("<|im_start|>user")
    assert encoded.kinds.tolist().count(USER) >= 1
    assert encoded.kinds[:4].tolist() == [TEMPLATE] * 4


def test_the_template_is_what_all_prompts_share_around_the_users_text() -> None:
    before, after = common_template(make_prompts(Checkpoint(DEMO_MODEL), None))
    assert TOKENIZER.decode(before, skip_special_tokens=False) == "<|im_start|>user\n"
    assert (
        TOKENIZER.decode(after, skip_special_tokens=False) == "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_without_a_template_share_nothing() -> None:
    prompts = [Prompt(np.array(each), np.array([USER, USER])) for each in ([1, 2], [1, 3])]
    assert [len(each) for each in common_template(prompts)] == [0, 0]


def test_a_file_holds_texts_and_token_ids(tmp_path: Path) -> None:
    file = prompt_file(tmp_path, "What is the capital of France?\n\n[5, 6, 1535]\n")
    text, ids = make_prompts(Checkpoint(DEMO_MODEL), file)
    assert text.tokens.tolist() == PromptEncoder(DEMO_MODEL).encode(PROMPTS[2]).tokens.tolist()
    assert (ids.tokens.tolist(), ids.kinds.tolist()) == ([5, 6, 1535], [USER] * 3)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("Hello\n", "holds 1 prompts"),
        ("Hello\n[1, 1536]\n", "line 2: token ids must be one or more of 0..1535"),
        ("Hello\n[]\n", "line 2: token ids"),
        ("Hello\n[-1]\n", "line 2: token ids"),
    ],
)
def test_a_bad_prompt_is_named(tmp_path: Path, content: str, wrong: str) -> None:
    with pytest.raises(KeysError, match=wrong):
        make_prompts(Checkpoint(DEMO_MODEL), prompt_file(tmp_path, content))


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot read"):
        make_prompts(Checkpoint(DEMO_MODEL), tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n\x00\xff\n")
    with pytest.raises(KeysError, match="not UTF-8"):
        make_prompts(Checkpoint(DEMO_MODEL), tmp_path / "binary")


def test_without_a_tokenizer_prompts_are_random_tokens(tmp_path: Path) -> None:
    checkpoint = Checkpoint(RandomCheckpoint(vocab_size=151).write(tmp_path / "checkpoint"))
    prompts = make_prompts(checkpoint, None)
    joined = np.concatenate([each.tokens for each in prompts])
    assert joined.min() >= 0 and joined.max() < 151 and len(set(joined.tolist())) > 100
    with pytest.raises(KeysError, match="line 1: the checkpoint has no tokenizer"):
        make_prompts(checkpoint, prompt_file(tmp_path, "Hello\nyou\n"))


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("{{ messages", "the chat template is broken"),
        ("{{ raise_exception('no') }}", "the chat template is broken"),
        ("nothing of it", "leaves the user's text out"),
    ],
)
def test_a_bad_template_is_named(tmp_path: Path, template: str, wrong: str) -> None:
    folder = change_template(tmp_path / "checkpoint", template)
    with pytest.raises(CheckpointError, match=wrong):
        PromptEncoder(folder)


def test_a_bad_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        PromptEncoder(tmp_path)
