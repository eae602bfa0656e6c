"""Turns a key into the linear map of every space of the rotation scheme (SPEC.md, "Rotation")."""

from __future__ import annotations

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.permutation import head_order, sealed_order
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.rotation import Heads, LinearMap, PlaneRotation, Rotation, Signed


class RotatedSpaces:
    """The spaces that a master key gives a model: one rotation of the whole residual stream."""

    def __init__(self, key: MasterKey, config: ModelConfig, *, sealed: bool = False) -> None:
        self._key = key
        self._config = config
        self._sealed = sealed
        self._residual = Rotation(key.subkey(derivation.ROTATION_LABEL), config.hidden_size)

    def layer(self, layer: int) -> dict[Space, LinearMap]:
        """The map of every space of one layer."""
        key, config = self._key, self._config
        head_dim = config.head_dim
        keys, values, queries, attended = [], [], [], []
        for kv, members in head_order(key, config, layer):
            planes = key.subkey(derivation.turns_label(layer, kv))
            turns = PlaneRotation(derivation.angles(planes, head_dim // 2))
            value = Rotation(key.subkey(derivation.value_label(layer, kv)), head_dim)
            keys.append((kv, turns))
            values.append((kv, value))
            queries += [(query, turns) for query in members]
            attended += [(query, value) for query in members]
        mlp = key.permutation(derivation.mlp_label(layer), config.intermediate_size)
        signs = derivation.signs(
            key.subkey(derivation.mlp_signs_label(layer)), config.intermediate_size
        )
        return {
            Space.RESIDUAL_IN: self._residual,
            Space.RESIDUAL_OUT: self._residual,
            Space.QUERY: Heads(queries, head_dim),
            Space.KEY: Heads(keys, head_dim),
            Space.VALUE: Heads(values, head_dim),
            Space.ATTENTION: Heads(attended, head_dim),
            Space.GATE: Signed(mlp),
            Space.MLP: Signed(mlp, signs),
        }

    def final(self) -> dict[Space, LinearMap]:
        """The map of the head's columns."""
        return {Space.RESIDUAL_IN: self._residual}

    def vocabulary(self) -> Indices | None:
        """The order of the head's rows; None is vocabulary order."""
        return sealed_order(self._key, self._config) if self._sealed else None
