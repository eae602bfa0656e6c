"""Reads Hugging Face's config.json into a ModelConfig, in both of its spellings of RoPE."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from stip.v1.manifest_pb2 import ModelConfig, RopeParameters
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families import architecture

# transformers' defaults for fields that config.json may leave out
DEFAULT_ROPE_THETA = 10000.0
DEFAULT_RMS_NORM_EPS = 1e-6
MAX = 1e300


def read_model_config(hf_config: Mapping[str, Any]) -> ModelConfig:
    """The dimensions in a config.json. Raises CheckpointError naming the field that is wrong."""
    model_type = hf_config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError("config.json: no model_type")
    described = architecture(model_type)
    for field in ("quantization_config", "quantization"):
        if hf_config.get(field):
            raise CheckpointError(
                f"config.json: {field}: quantised checkpoints are not supported",
                hint="convert the original bfloat16, float16 or float32 checkpoint",
            )
    if (activation := hf_config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise CheckpointError(f"config.json: hidden_act {activation!r} is not supported (silu is)")
    if _number(hf_config, "partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError("config.json: partial_rotary_factor is not supported")
    layer_types = hf_config.get("layer_types") or []
    if not isinstance(layer_types, list) or set(map(str, layer_types)) - {"full_attention"}:
        raise CheckpointError(
            f"config.json: layer_types {layer_types!r} is not supported (full_attention is)"
        )

    heads = _positive(hf_config, "num_attention_heads")
    hidden_size = _positive(hf_config, "hidden_size")
    config = ModelConfig(
        model_type=model_type,
        hidden_size=hidden_size,
        intermediate_size=_positive(hf_config, "intermediate_size"),
        num_hidden_layers=_positive(hf_config, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_positive(hf_config, "num_key_value_heads", default=heads),
        head_dim=_positive(hf_config, "head_dim", default=hidden_size // heads),
        vocab_size=_positive(hf_config, "vocab_size"),
        max_position_embeddings=_positive(hf_config, "max_position_embeddings"),
        rms_norm_eps=_number(hf_config, "rms_norm_eps", DEFAULT_RMS_NORM_EPS),
        rope_parameters=_rope_parameters(hf_config),
        tie_word_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
    )
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"config.json: num_key_value_heads {config.num_key_value_heads} "
            f"does not divide num_attention_heads {config.num_attention_heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"config.json: head_dim {config.head_dim} is odd, RoPE needs pairs")
    described.complete_config(hf_config, config)
    return config


def _rope_parameters(hf_config: Mapping[str, Any]) -> RopeParameters:
    """`rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` (before it)."""
    scaling = hf_config.get("rope_parameters") or hf_config.get("rope_scaling") or {}
    if not isinstance(scaling, Mapping):
        raise CheckpointError("config.json: the RoPE settings are not an object")
    theta = scaling.get("rope_theta", hf_config.get("rope_theta"))
    rope = RopeParameters(
        rope_type=str(scaling.get("rope_type", scaling.get("type", "default"))),
        rope_theta=_number({"rope_theta": theta}, "rope_theta", DEFAULT_ROPE_THETA),
    )
    if rope.rope_type in ("linear", "llama3"):
        rope.factor = _number(scaling, "factor")
    if rope.rope_type == "llama3":
        rope.low_freq_factor = _number(scaling, "low_freq_factor")
        rope.high_freq_factor = _number(scaling, "high_freq_factor")
        rope.original_max_position_embeddings = _positive(
            scaling, "original_max_position_embeddings"
        )
        if rope.high_freq_factor == rope.low_freq_factor:
            raise CheckpointError("config.json: high_freq_factor equals low_freq_factor")
    if rope.rope_type not in ("default", "linear", "llama3"):
        raise CheckpointError(
            f"config.json: rope_type {rope.rope_type!r} is not supported "
            "(supported: default, linear, llama3)"
        )
    return rope


def _positive(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name)
    if value is None and default is not None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise CheckpointError(f"config.json: {name} is {value!r}, not a positive integer")
    return value


def _number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = fields.get(name)
    if value is None and default is not None:
        value = default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < MAX:
        raise CheckpointError(
            f"config.json: {name} is {reprlib.repr(value)}, not a positive number"
        )
    return float(value)
