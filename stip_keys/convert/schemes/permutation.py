"""Scheme permutation: a key makes a gather for every space (SPEC.md, "Spaces")."""

from __future__ import annotations

from collections.abc import Mapping

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.masked_tensor import GatheredTensor, SourceTensor
from stip_keys.convert.schemes.masking import Masking, attention_maps
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import Gather, concatenate_heads, relative, turn_planes


class PermutationMasking(Masking[Gather]):
    """Moves and negates values, and rounds nothing.

    By default the residual permutations have one block for each attention head, or one block where
    the heads do not divide hidden_size.
    """

    name = "permutation"
    has_blocks = True

    def __init__(
        self,
        config: ModelConfig,
        key: MasterKey | None,
        head: str = "server",
        blocks: int | None = None,
    ) -> None:
        super().__init__(config, blocks)
        self._key = self.needed(key)
        size, heads = config.hidden_size, config.num_attention_heads
        if blocks is None:
            blocks = heads if size % heads == 0 else 1
        if blocks < 1 or size % blocks:
            raise KeysError(
                f"{blocks} blocks do not divide hidden_size {size}",
                hint="--blocks takes a divisor of hidden_size; 1 is one full permutation",
            )
        self.blocks = blocks
        self.client_key = self._key.client_key(
            size, blocks, head=head, layers=config.num_hidden_layers
        )

    def residual(self, layer: int) -> Indices:
        """p_layer, layer in 0..num_hidden_layers: int64 [hidden_size]."""
        return self._key.residual_permutation(layer, self._config.hidden_size, self.blocks)

    def tau(self, layer: int) -> Indices:
        """A layer's public relative permutation, `p_i[tau] == p_{i+1}`: int64 [hidden_size]."""
        return relative(self.residual(layer), self.residual(layer + 1))

    def layer(self, layer: int) -> dict[Space, Gather]:
        key, config = self._key, self._config
        head_dim = config.head_dim

        def turns(kv: int) -> Gather:
            return turn_planes(key.quarter_turns(derivation.turns_label(layer, kv), head_dim // 2))

        def values(kv: int) -> Gather:
            return Gather(key.permutation(derivation.value_label(layer, kv), head_dim))

        maps = attention_maps(key, config, layer, turns, values)
        mlp = Gather(key.permutation(derivation.mlp_label(layer), config.intermediate_size))
        return {
            Space.RESIDUAL_IN: Gather(self.residual(layer)),
            Space.RESIDUAL_OUT: Gather(self.residual(layer + 1)),
            **{space: concatenate_heads(heads, head_dim) for space, heads in maps.items()},
            Space.GATE: mlp,
            Space.MLP: mlp,
        }

    def final(self) -> dict[Space, Gather]:
        return {Space.RESIDUAL_IN: Gather(self.residual(self._config.num_hidden_layers))}

    def tensor(self, source: SourceTensor, spaces: Mapping[Space, Gather]) -> GatheredTensor:
        return GatheredTensor.gathered(source, spaces, self.row_order(source))

    def rekeyed(self, new: PermutationMasking) -> RekeyedMasking:
        return RekeyedMasking(self, new)


class RekeyedMasking(PermutationMasking):
    """Moves the tensors of one key's server bundle to where another key puts them."""

    def __init__(self, old: PermutationMasking, new: PermutationMasking) -> None:
        self._old = old
        self._new = new
        self.blocks, self.client_key = new.blocks, new.client_key

    def layer(self, layer: int) -> dict[Space, Gather]:
        return _from_to(self._old.layer(layer), self._new.layer(layer))

    def final(self) -> dict[Space, Gather]:
        return _from_to(self._old.final(), self._new.final())

    def vocabulary(self) -> Indices | None:
        old, new = self._old.vocabulary(), self._new.vocabulary()
        return None if old is None or new is None else relative(old, new)

    def residual(self, layer: int) -> Indices:
        return self._new.residual(layer)


def _from_to(old: Mapping[Space, Gather], new: Mapping[Space, Gather]) -> dict[Space, Gather]:
    return {space: gather.after(old[space].undone) for space, gather in new.items()}


MASKING = PermutationMasking
