"""Reading config.json: both spellings of RoPE, defaults, and values that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.model_config import read_model_config
from tests.support.models.random_checkpoint import LLAMA3_SCALING, RandomCheckpoint

QWEN2 = RandomCheckpoint().config
LLAMA = RandomCheckpoint(model_type="llama").config


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


@pytest.mark.parametrize(
    "scaling",
    [{}, LLAMA3_SCALING, {"rope_type": "linear", "factor": 4.0}],
    ids=["default", "llama3", "linear"],
)
def test_both_spellings_of_rope_mean_the_same(scaling: dict[str, Any]) -> None:
    theta = 123456.0
    old = without(LLAMA, "rope_theta") | {"rope_theta": theta, "rope_scaling": scaling or None}
    parameters = {"rope_type": "default", **scaling, "rope_theta": theta}
    new = without(LLAMA, "rope_theta") | {"rope_parameters": parameters}
    assert read_model_config(old) == read_model_config(new)
    assert read_model_config(new).rope_parameters.rope_theta == theta


def test_the_older_name_of_the_rope_type_is_read() -> None:
    config = LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert read_model_config(config).rope_parameters.rope_type == "linear"


def test_left_out_fields_have_transformers_defaults() -> None:
    config = read_model_config(
        without(LLAMA, "rope_theta", "rms_norm_eps", "num_key_value_heads", "hidden_act")
    )
    assert config.rope_parameters.rope_theta == 10000.0
    assert config.rms_norm_eps == 1e-6
    assert config.num_key_value_heads == config.num_attention_heads
    assert config.head_dim == config.hidden_size // config.num_attention_heads


def test_head_dim_may_differ_from_hidden_size_over_heads() -> None:
    for config in (QWEN2, LLAMA):
        assert read_model_config(config | {"head_dim": 34}).head_dim == 34


def test_qwen2_always_has_query_key_and_value_biases_and_llama_says_so() -> None:
    assert read_model_config(QWEN2).attention_bias
    assert not read_model_config(QWEN2).attention_output_bias
    assert not read_model_config(LLAMA).attention_bias
    biased = read_model_config(LLAMA | {"attention_bias": True})
    assert biased.attention_bias
    assert biased.attention_output_bias


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"model_type": None}, "no model_type"),
        ({"hidden_size": "60"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": [1]}, "RoPE"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"use_sliding_window": True}, "sliding"),
        ({"layer_types": ["sliding_attention"]}, "sliding"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_model_config(QWEN2 | change)
