"""Random checkpoints in Hugging Face's format, made so that no dropped term can hide.

Biases are large, norms and the RoPE base are random, and all dimensions differ, which catches
swapped axes. Embeddings are values that float16 represents exactly: the wire rounds nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass
class RandomCheckpoint:
    """What to draw. The defaults are a small Qwen2 with odd head counts and a tied head."""

    model_type: str = "qwen2"
    hidden_size: int = 60
    intermediate_size: int = 88
    num_hidden_layers: int = 3
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int | None = None
    vocab_size: int = 151
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    seed: int = 0
    shards: int = 1
    max_position_embeddings: int = 512
    eos_token_id: int | None = 2

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        rng = np.random.default_rng(self.seed + 1)
        config: dict[str, Any] = {
            "architectures": [f"{self.model_type.capitalize()}ForCausalLM"],
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": 1e-5,
            "rope_theta": float(np.round(rng.uniform(2e3, 5e4), 2)),
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.dtype,
            "eos_token_id": self.eos_token_id,
        }
        if self.head_dim is not None:
            config["head_dim"] = self.head_dim
        if self.model_type == "llama":
            config["attention_bias"] = self.attention_bias
            config["mlp_bias"] = self.mlp_bias
        config.update(self.rope)
        return config

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Every weight. Scales keep activations of order one through all layers."""
        rng = np.random.default_rng(self.seed)
        dtype = DTYPES[self.dtype]
        hidden, inner = self.hidden_size, self.intermediate_size
        head_dim = self.head_dim or hidden // self.num_attention_heads
        query, key_value = self.num_attention_heads * head_dim, self.num_key_value_heads * head_dim

        def weight(out: int, into: int) -> NDArray[Any]:
            return (rng.standard_normal((out, into)) / np.sqrt(into) * 1.5).astype(dtype)

        def norm() -> NDArray[Any]:
            return rng.uniform(0.3, 2.0, hidden).astype(dtype)

        def bias(n: int) -> NDArray[Any]:
            return (rng.standard_normal(n) * 1.5).astype(dtype)

        tensors: dict[str, NDArray[Any]] = {
            # multiples of 1/256 below 8: exact in float16 and in bfloat16's 8 bits near zero
            "model.embed_tokens.weight": (
                rng.integers(-127, 128, (self.vocab_size, hidden)) / 64.0
            ).astype(dtype),
            "model.norm.weight": norm(),
        }
        if not self.tie_word_embeddings:
            tensors["lm_head.weight"] = weight(self.vocab_size, hidden)
        qkv_bias = self.model_type == "qwen2" or self.attention_bias
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            tensors[prefix + "input_layernorm.weight"] = norm()
            tensors[prefix + "post_attention_layernorm.weight"] = norm()
            for name, out, into, has_bias in (
                ("self_attn.q_proj", query, hidden, qkv_bias),
                ("self_attn.k_proj", key_value, hidden, qkv_bias),
                ("self_attn.v_proj", key_value, hidden, qkv_bias),
                ("self_attn.o_proj", hidden, query, self.attention_bias),
                ("mlp.gate_proj", inner, hidden, self.mlp_bias),
                ("mlp.up_proj", inner, hidden, self.mlp_bias),
                ("mlp.down_proj", hidden, inner, self.mlp_bias),
            ):
                tensors[f"{prefix}{name}.weight"] = weight(out, into)
                if has_bias:
                    tensors[f"{prefix}{name}.bias"] = bias(out)
        return tensors

    def write(self, folder: Path) -> Path:
        """Write config.json and the weights, in `shards` files, with an index for more than one."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        tensors = self.tensors()
        if self.shards == 1:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            return folder
        weight_map: dict[str, str] = {}
        names = list(tensors)
        for shard in range(self.shards):
            file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            part = {name: tensors[name] for name in names[shard :: self.shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder
