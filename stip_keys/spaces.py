"""Turns a key into the gather of every space of a layer (SPEC.md, "Spaces")."""

from __future__ import annotations

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys import derivation
from stip_keys.architectures.base import Space
from stip_keys.derivation import Indices
from stip_keys.errors import KeysError
from stip_keys.keys import MasterKey
from stip_keys.permutation import (
    IDENTITY,
    Gather,
    concatenate_heads,
    relative,
    turn_planes,
)


def check_blocks(hidden_size: int, blocks: int) -> None:
    """Raise KeysError unless `blocks` equal blocks make up the residual stream."""
    if blocks < 1 or hidden_size % blocks:
        raise KeysError(
            f"{blocks} blocks do not divide hidden_size {hidden_size}",
            hint="--blocks takes a divisor of hidden_size; 1 is one full permutation",
        )


def default_blocks(config: ModelConfig) -> int:
    """One block an attention head, or one in all where the heads do not divide hidden_size."""
    heads: int = config.num_attention_heads
    return heads if config.hidden_size % heads == 0 else 1


class PermutationSpaces:
    """The spaces that a master key gives a model."""

    def __init__(self, key: MasterKey, config: ModelConfig, blocks: int) -> None:
        check_blocks(config.hidden_size, blocks)
        self._key = key
        self._config = config
        self._blocks = blocks

    def residual(self, layer: int) -> Indices:
        """p_layer, layer in 0..num_hidden_layers: int64 [hidden_size]."""
        return self._key.residual_permutation(layer, self._config.hidden_size, self._blocks)

    def tau(self, layer: int) -> Indices:
        """A layer's public relative permutation, `p_i[tau] == p_{i+1}`: int64 [hidden_size]."""
        return relative(self.residual(layer), self.residual(layer + 1))

    def layer(self, layer: int) -> dict[Space, Gather]:
        """The gather of every space of one layer."""
        key, config = self._key, self._config
        head_dim = config.head_dim
        group = config.num_attention_heads // config.num_key_value_heads
        kv_order = key.permutation(derivation.heads_label(layer), config.num_key_value_heads)

        keys, values, queries, attended = [], [], [], []
        for kv in map(int, kv_order):
            turns = turn_planes(key.quarter_turns(derivation.turns_label(layer, kv), head_dim // 2))
            value = Gather(key.permutation(derivation.value_label(layer, kv), head_dim))
            keys.append((kv, turns))
            values.append((kv, value))
            for member in map(int, key.permutation(derivation.group_label(layer, kv), group)):
                queries.append((kv * group + member, turns))
                attended.append((kv * group + member, value))

        return {
            Space.RESIDUAL_IN: Gather(self.residual(layer)),
            Space.RESIDUAL_OUT: Gather(self.residual(layer + 1)),
            Space.QUERY: concatenate_heads(queries, head_dim),
            Space.KEY: concatenate_heads(keys, head_dim),
            Space.VALUE: concatenate_heads(values, head_dim),
            Space.ATTENTION: concatenate_heads(attended, head_dim),
            Space.MLP: Gather(
                key.permutation(derivation.mlp_label(layer), config.intermediate_size)
            ),
            Space.VOCABULARY: IDENTITY,
        }
