"""Prompts are tokenized whole, and a reply ends with every end token that the files name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from stip_client.bundle.client_bundle import ClientBundle
from stip_client.bundle.prompt import encode_prompt
from stip_client.session.generation import Generation
from stip_client.session.generation_options import GenerationParameters
from stip_keys.audit.evidence.prompt_text import PromptEncoder
from tests.support.fixtures.talking_model import VOCAB_SIZE, write_talking_checkpoint
from tests.support.parties import convert
from tests.support.scripted_model import drive

GENERATION_CONFIG, CONFIG, TOKENIZER_CONFIG = 5, 6, 7


def test_a_stored_truncation_or_padding_does_not_change_a_prompt(tmp_path: Path) -> None:
    checkpoint = write_talking_checkpoint(tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=100, pad_token="w0")
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    bundle = ClientBundle(convert(checkpoint, tmp_path / "bundles") / "client")
    tokens = list(range(1, 69))
    text = " ".join(f"w{token}" for token in tokens)
    assert encode_prompt(bundle, text) == tokens
    assert PromptEncoder(checkpoint).encode(text).tokens.tolist() == tokens  # the audit's


@pytest.fixture(scope="module", params=["string", "object"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client bundle of a checkpoint whose three files each name another end token."""
    folder = tmp_path_factory.mktemp("end")
    checkpoint = write_talking_checkpoint(folder / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_bytes())
    text = f"w{TOKENIZER_CONFIG}"
    files = {
        "config.json": {**config, "eos_token_id": CONFIG},
        "generation_config.json": {"eos_token_id": [GENERATION_CONFIG]},
        "tokenizer_config.json": {
            "eos_token": text if request.param == "string" else {"content": text, "lstrip": False}
        },
    }
    for name, content in files.items():
        (checkpoint / name).write_text(json.dumps(content))
    return convert(checkpoint, folder / "bundles") / "client"


@pytest.mark.parametrize("end", [GENERATION_CONFIG, CONFIG, TOKENIZER_CONFIG])
def test_a_reply_ends_with_an_end_token_of_every_file_and_does_not_show_it(
    bundle: Path, end: int
) -> None:
    def logits(tokens: list[int]) -> np.ndarray:
        row = np.zeros(VOCAB_SIZE, np.float32)
        row[end if len(tokens) == 5 else 100 + len(tokens)] = 1
        return row

    generation = Generation(ClientBundle(bundle), [1, 2, 3], GenerationParameters(draft="off"))
    pieces, _ = drive(generation, logits)
    assert [piece.token_id for piece in pieces] == [103, 104, end]
    assert pieces[-1].finish_reason == "stop"
    assert "".join(piece.text for piece in pieces) == "w103 w104"


@pytest.mark.parametrize("eos_token", ["<|unknown|>", None, {"content": None}, 3])
def test_an_end_token_that_the_tokenizer_does_not_know_is_ignored(
    tmp_path: Path, eos_token: object
) -> None:
    checkpoint = write_talking_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}))
    bundle = ClientBundle(convert(checkpoint, tmp_path / "bundles") / "client")
    assert bundle.eos_token_ids == frozenset()
