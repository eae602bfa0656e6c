"""Turns a key into the gather of every space of the permutation scheme (SPEC.md, "Spaces")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import Space
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import Gather, concatenate_heads, relative, turn_planes


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


class Spaces(Protocol):
    """The gathers of a model whose values are moved or negated, and no more."""

    def layer(self, layer: int) -> Mapping[Space, Gather]:
        """The gather of every space of one layer."""

    def final(self) -> Mapping[Space, Gather]:
        """The gathers of the final norm and of the head's columns."""

    def vocabulary(self) -> Indices | None:
        """The order of the head's rows; None is vocabulary order."""

    def tau(self, layer: int) -> Indices | None:
        """A layer's relative permutation, None where the residual stream keeps its space."""


class PlainSpaces:
    """Scheme none: nothing moves."""

    def layer(self, layer: int) -> Mapping[Space, Gather]:  # noqa: ARG002
        return {}

    def final(self) -> Mapping[Space, Gather]:
        return {}

    def vocabulary(self) -> Indices | None:
        return None

    def tau(self, layer: int) -> Indices | None:  # noqa: ARG002
        return None


class PermutationSpaces:
    """The spaces that a master key gives a model."""

    def __init__(
        self, key: MasterKey, config: ModelConfig, blocks: int, *, sealed: bool = False
    ) -> None:
        """`sealed`: the vocabulary has an order of its own, too. Raises KeysError for a number of
        blocks that does not divide hidden_size."""
        check_blocks(config.hidden_size, blocks)
        self._key = key
        self._config = config
        self._blocks = blocks
        self._sealed = sealed

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
        keys, values, queries, attended = [], [], [], []
        for kv, members in head_order(key, config, layer):
            turns = turn_planes(key.quarter_turns(derivation.turns_label(layer, kv), head_dim // 2))
            value = Gather(key.permutation(derivation.value_label(layer, kv), head_dim))
            keys.append((kv, turns))
            values.append((kv, value))
            queries += [(query, turns) for query in members]
            attended += [(query, value) for query in members]
        mlp = Gather(key.permutation(derivation.mlp_label(layer), config.intermediate_size))

        return {
            Space.RESIDUAL_IN: Gather(self.residual(layer)),
            Space.RESIDUAL_OUT: Gather(self.residual(layer + 1)),
            Space.QUERY: concatenate_heads(queries, head_dim),
            Space.KEY: concatenate_heads(keys, head_dim),
            Space.VALUE: concatenate_heads(values, head_dim),
            Space.ATTENTION: concatenate_heads(attended, head_dim),
            Space.GATE: mlp,
            Space.MLP: mlp,
        }

    def final(self) -> dict[Space, Gather]:
        """The gather of the final norm and of the head's columns."""
        return {Space.RESIDUAL_IN: Gather(self.residual(self._config.num_hidden_layers))}

    def vocabulary(self) -> Indices | None:
        """The order of the head's rows; None is vocabulary order."""
        return sealed_order(self._key, self._config) if self._sealed else None


class RekeyedSpaces:
    """From the spaces of one key to those of another: what makes the other's bundle of one's."""

    def __init__(self, old: PermutationSpaces, new: PermutationSpaces) -> None:
        self._old = old
        self._new = new

    def layer(self, layer: int) -> dict[Space, Gather]:
        return _from_to(self._old.layer(layer), self._new.layer(layer))

    def final(self) -> dict[Space, Gather]:
        return _from_to(self._old.final(), self._new.final())

    def vocabulary(self) -> Indices | None:
        old, new = self._old.vocabulary(), self._new.vocabulary()
        return None if old is None or new is None else relative(old, new)

    def tau(self, layer: int) -> Indices:
        return self._new.tau(layer)


def head_order(key: MasterKey, config: ModelConfig, layer: int) -> Iterator[tuple[int, list[int]]]:
    """The original key/value head of each slot, and the original query heads of its group."""
    group = config.num_attention_heads // config.num_key_value_heads
    for kv in map(int, key.permutation(derivation.heads_label(layer), config.num_key_value_heads)):
        members = key.permutation(derivation.group_label(layer, kv), group)
        yield kv, [kv * group + int(member) for member in members]


def sealed_order(key: MasterKey, config: ModelConfig) -> Indices:
    """The order of a sealed vocabulary: int64 [vocab_size]."""
    return key.permutation(derivation.VOCABULARY_LABEL, config.vocab_size)


def _from_to(old: Mapping[Space, Gather], new: Mapping[Space, Gather]) -> dict[Space, Gather]:
    return {space: gather.after(old[space].undone) for space, gather in new.items()}
