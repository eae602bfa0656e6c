"""A new model type is one new file in stip_keys/convert/families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stip_keys.convert import families as architectures
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.converter import Converter, Settings
from stip_keys.convert.errors import CheckpointError
from stip_keys.masks.keys import MasterKey
from tests.support.models.random_checkpoint import RandomCheckpoint

NEW_FILE = """
from stip_keys.convert.families.family import DECODER_WEIGHTS, Architecture

ARCHITECTURE = Architecture("novel", lambda hf_config, config: None, lambda config: DECODER_WEIGHTS)
"""
NOVEL = RandomCheckpoint(model_type="novel", head_dim=8)


@pytest.fixture
def one_more_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "novel.py").write_text(NEW_FILE)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    architectures.architectures.cache_clear()
    yield
    architectures.architectures.cache_clear()


def test_llama_and_qwen2_are_found() -> None:
    assert {"llama", "qwen2"} <= set(architectures.architectures())


@pytest.mark.usefixtures("one_more_file")
def test_one_file_adds_a_model_type(tmp_path: Path) -> None:
    checkpoint = Checkpoint(NOVEL.write(tmp_path / "checkpoint"))
    settings = Settings("permutation", MasterKey.from_base_seed(1))
    converted = Converter(checkpoint, settings).write(tmp_path / "out")
    assert converted.server.model.model_type == "novel"


def test_without_the_file_it_is_not_supported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'novel' is not supported"):
        Checkpoint(NOVEL.write(tmp_path / "checkpoint"))
