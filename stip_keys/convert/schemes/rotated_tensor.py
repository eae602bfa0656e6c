"""One tensor on its way from a checkpoint to a bundle of the rotation scheme, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.converted_tensor import RANGE_BYTES, check_finite, read_rows
from stip_keys.masks.derivation import Indices
from stip_keys.masks.rotation import LinearMap
from stip_model.bundle.weight_types import WeightType


@dataclass(frozen=True)
class RotatedTensor:
    """One tensor of a bundle: a weight [out, in], or a bias [out].

    `rows` and `columns` map its axes, None leaves one as it is; `order` is as in ConvertedTensor.
    `norm`, where there is one, is the RMSNorm before the tensor: its γ is multiplied into the
    columns first.
    """

    name: str
    source: StoredTensor
    dtype: WeightType
    rows: LinearMap | None = None
    columns: LinearMap | None = None
    norm: StoredTensor | None = None
    order: Indices | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the checkpoint."""
        return self.source.shape

    @property
    def size(self) -> int:
        """Bytes in the bundle."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.numpy.itemsize

    def ranges(self) -> Iterator[NDArray[Any]]:
        """The converted values in order. Raises CheckpointError on NaN, Inf or overflow."""
        count = self.source.shape[0]
        gamma = None if self.norm is None else self._read(self.norm, 0, self.norm.shape[0])
        whole = self.rows is not None
        step = count if whole else max(1, RANGE_BYTES // max(1, self.source.row_bytes))
        for start in range(0, count, step):
            values = self._read(self.source, start, min(start + step, count), self.order)
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

    @staticmethod
    def _read(
        source: StoredTensor, start: int, stop: int, order: Indices | None = None
    ) -> NDArray[np.float32]:
        values = read_rows(source, start, stop, order)
        check_finite(source, values, source.dtype, "holds NaN or Inf")
        return values.astype(np.float32)
