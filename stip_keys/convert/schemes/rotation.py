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
    read_rows,
    row_ranges,
)
from stip_keys.convert.schemes.masking import Masking, head_order
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
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
        gamma = None if self.norm is None else _finite(self.norm, 0, self.norm.shape[0])
        for start, stop in row_ranges(self.source, whole=self.rows is not None):
            values = _finite(self.source, start, stop, self.order)
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


def _finite(
    source: StoredTensor, start: int, stop: int, order: Indices | None = None
) -> NDArray[np.float32]:
    values = read_rows(source, start, stop, order)
    check_finite(source, values, source.dtype, "holds NaN or Inf")
    return values.astype(np.float32)


MASKING = RotationMasking
