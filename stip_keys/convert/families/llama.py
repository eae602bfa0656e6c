"""Llama and the models that share its layout: biases where config.json asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import (
    DECODER_WEIGHTS,
    MLP_BIASES,
    OUTPUT_BIAS,
    QKV_BIASES,
    Architecture,
    Axes,
)


def _complete_config(hf_config: Mapping[str, Any], config: ModelConfig) -> None:
    config.attention_bias = bool(hf_config.get("attention_bias", False))
    config.attention_output_bias = config.attention_bias
    config.mlp_bias = bool(hf_config.get("mlp_bias", False))


def _layer_tensors(config: ModelConfig) -> Mapping[str, Axes]:
    tensors = dict(DECODER_WEIGHTS)
    if config.attention_bias:
        tensors |= {**QKV_BIASES, **OUTPUT_BIAS}
    if config.mlp_bias:
        tensors |= MLP_BIASES
    return tensors


ARCHITECTURE = Architecture("llama", _complete_config, _layer_tensors)
