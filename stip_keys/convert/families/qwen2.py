"""Qwen2 and Qwen2.5: query, key and value projections always have biases, nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families.family import DECODER_WEIGHTS, QKV_BIASES, Architecture, Axes


def _complete_config(hf_config: Mapping[str, Any], config: ModelConfig) -> None:
    if hf_config.get("use_sliding_window"):
        raise CheckpointError("config.json: use_sliding_window is not supported")
    config.attention_bias = True


def _layer_tensors(_: ModelConfig) -> Mapping[str, Axes]:
    return {**DECODER_WEIGHTS, **QKV_BIASES}


ARCHITECTURE = Architecture("qwen2", _complete_config, _layer_tensors)
