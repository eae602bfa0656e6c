"""Scheme rotation: a key makes a linear map for every space (SPEC.md, "Rotation").

Weights are rotated in float32 and then rounded to the bundle's type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.masked_tensor import (
    MaskedTensor,
    SourceTensor,
    check_finite,
    finite_rows,
)
from stip_keys.convert.schemes.masking import Masking, attention_maps
from stip_keys.masks import derivation
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.rotation import Heads, LinearMap, PlaneRotation, Rotation, Signed


class RotationMasking(Masking[LinearMap]):
    """One rotation of the whole residual stream, in all layers."""

    name = "rotation"

    def __init__(
        self, config: ModelConfig, key: MasterKey | None, head: str, blocks: int | None
    ) -> None:
        super().__init__(config, blocks)
        self._key = self.needed(key)
        self.client_key = self._key.client_key(config.hidden_size, 1, scheme=self.name, head=head)
        self._residual = Rotation(self._key.subkey(derivation.ROTATION_LABEL), config.hidden_size)

    def layer(self, layer: int) -> dict[Space, LinearMap]:
        key, config = self._key, self._config
        head_dim = config.head_dim

        def turns(kv: int) -> LinearMap:
            planes = key.subkey(derivation.turns_label(layer, kv))
            return PlaneRotation(derivation.angles(planes, head_dim // 2))

        def values(kv: int) -> LinearMap:
            return Rotation(key.subkey(derivation.value_label(layer, kv)), head_dim)

        maps = attention_maps(key, config, layer, turns, values)
        mlp = key.permutation(derivation.mlp_label(layer), config.intermediate_size)
        signs = derivation.signs(
            key.subkey(derivation.mlp_signs_label(layer)), config.intermediate_size
        )
        return {
            Space.RESIDUAL_IN: self._residual,
            Space.RESIDUAL_OUT: self._residual,
            **{space: Heads(heads, head_dim) for space, heads in maps.items()},
            Space.GATE: Signed(mlp),
            Space.MLP: Signed(mlp, signs),
        }

    def final(self) -> dict[Space, LinearMap]:
        return {Space.RESIDUAL_IN: self._residual}

    def tensor(
        self, source: SourceTensor, spaces: Mapping[Space, LinearMap]
    ) -> RotatedTensor | None:
        """A norm is folded into the tensors after it: a rotation does not commute with its γ."""
        if source.is_norm:
            return None
        rows, *columns = [spaces.get(axis) for axis in source.axes]
        return RotatedTensor(
            source.name,
            source.stored,
            source.dtype,
            self.row_order(source),
            rows,
            columns[0] if columns else None,
            source.norm,
        )

    def rekeyed(self, new: Masking[LinearMap]) -> Masking[LinearMap]:  # noqa: ARG002
        raise KeysError(
            "scheme rotation rounds weights: re-keyed weights would be rounded twice",
            hint="convert the checkpoint again with the new key",
        )


@dataclass(frozen=True)
class RotatedTensor(MaskedTensor):
    """One tensor of a bundle: a weight [out, in], or a bias [out].

    `rows` and `columns` map its axes; None leaves an axis as it is. The γ of `norm` is multiplied
    into the columns first.
    """

    rows: LinearMap | None = None
    columns: LinearMap | None = None
    norm: StoredTensor | None = None

    def ranges(self) -> Iterator[NDArray[Any]]:
        gamma = None
        if self.norm is not None:
            gamma = finite_rows(self.norm, 0, self.norm.shape[0]).astype(np.float32)
        for stored in self.source_ranges(whole=self.rows is not None):
            values = stored.astype(np.float32)
            if gamma is not None:
                values *= gamma
            if self.columns is not None:
                values = self.columns.apply(values)
            if self.rows is not None:
                values = self.rows.apply(values.T).T
            with np.errstate(over="ignore"):
                cast = np.ascontiguousarray(values, self.dtype.numpy)
            check_finite(self.source, cast, self.dtype, f"overflows {self.dtype.name}")
            yield cast


MASKING = RotationMasking
