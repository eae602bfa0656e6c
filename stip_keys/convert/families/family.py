"""What an architecture says about a checkpoint: its tensors, and the space of each side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from stip.v1.manifest_pb2 import ModelConfig


class Space(Enum):
    """The coordinates that one axis of a tensor is written in."""

    RESIDUAL_IN = auto()  # p_i: the residual stream as the layer reads it
    RESIDUAL_OUT = auto()  # p_{i+1}: the residual stream as the layer writes it
    QUERY = auto()  # query heads, each under the quarter-turns of its key/value head
    KEY = auto()  # key heads under their quarter-turns
    VALUE = auto()  # value heads, each under its own permutation
    ATTENTION = auto()  # query heads, each carrying its value head's permutation
    GATE = auto()  # the MLP's permutation, without signs: what the activation sees
    MLP = auto()  # the MLP's permutation, with signs where the scheme has any
    VOCABULARY = auto()  # vocabulary order, or the order of a sealed vocabulary


Axes = tuple[Space, ...]

# The names and axes that the decoders of the Llama family share; a projection is [out, in].
DECODER_WEIGHTS: Mapping[str, Axes] = {
    "input_layernorm.weight": (Space.RESIDUAL_IN,),
    "self_attn.q_proj.weight": (Space.QUERY, Space.RESIDUAL_IN),
    "self_attn.k_proj.weight": (Space.KEY, Space.RESIDUAL_IN),
    "self_attn.v_proj.weight": (Space.VALUE, Space.RESIDUAL_IN),
    "self_attn.o_proj.weight": (Space.RESIDUAL_OUT, Space.ATTENTION),
    "post_attention_layernorm.weight": (Space.RESIDUAL_OUT,),
    "mlp.gate_proj.weight": (Space.GATE, Space.RESIDUAL_OUT),
    "mlp.up_proj.weight": (Space.MLP, Space.RESIDUAL_OUT),
    "mlp.down_proj.weight": (Space.RESIDUAL_OUT, Space.MLP),
}
QKV_BIASES: Mapping[str, Axes] = {
    "self_attn.q_proj.bias": (Space.QUERY,),
    "self_attn.k_proj.bias": (Space.KEY,),
    "self_attn.v_proj.bias": (Space.VALUE,),
}
OUTPUT_BIAS: Mapping[str, Axes] = {"self_attn.o_proj.bias": (Space.RESIDUAL_OUT,)}
MLP_BIASES: Mapping[str, Axes] = {
    "mlp.gate_proj.bias": (Space.GATE,),
    "mlp.up_proj.bias": (Space.MLP,),
    "mlp.down_proj.bias": (Space.RESIDUAL_OUT,),
}


# The norm whose output each projection takes.
NORMS: Mapping[str, str] = {
    "self_attn.q_proj.weight": "input_layernorm.weight",
    "self_attn.k_proj.weight": "input_layernorm.weight",
    "self_attn.v_proj.weight": "input_layernorm.weight",
    "mlp.gate_proj.weight": "post_attention_layernorm.weight",
    "mlp.up_proj.weight": "post_attention_layernorm.weight",
}


@dataclass(frozen=True)
class Architecture:
    """One model type. Names are the checkpoint's, and become the bundle's."""

    model_type: str
    # Reads what differs between model types out of config.json into a ModelConfig.
    complete_config: Callable[[Mapping[str, Any], ModelConfig], None]
    # The tensors of one layer, without the layer's prefix, and the space of each axis.
    layer_tensors: Callable[[ModelConfig], Mapping[str, Axes]]
    layer_prefix: str = "model.layers.{layer}."
    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    # Endings of tensors that old checkpoints carry and no implementation reads.
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)


def extent(space: Space, config: ModelConfig) -> int:
    """The length of an axis in a space."""
    match space:
        case Space.RESIDUAL_IN | Space.RESIDUAL_OUT:
            return config.hidden_size
        case Space.QUERY | Space.ATTENTION:
            return config.num_attention_heads * config.head_dim
        case Space.KEY | Space.VALUE:
            return config.num_key_value_heads * config.head_dim
        case Space.GATE | Space.MLP:
            return config.intermediate_size
        case Space.VOCABULARY:
            return config.vocab_size
