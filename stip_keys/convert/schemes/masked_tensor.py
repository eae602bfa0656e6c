"""One tensor on its way from a checkpoint to a bundle: read, gathered, cast and checked by ranges.

A range is some rows. Only a tensor whose rows move is read as a whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families.family import Axes, Space
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeysError
from stip_keys.masks.permutation import IDENTITY, Gather
from stip_model.bundle.weight_types import WeightType

# Small enough to stay in a core's cache share, large enough that a call costs nothing.
RANGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class SourceTensor:
    """A tensor to mask: `axes` are the spaces of its axes, `dtype` its type in the bundle.

    `norm` is the RMSNorm whose output the tensor multiplies; None for all others. `is_norm` marks
    the RMSNorms themselves.
    """

    name: str
    stored: StoredTensor
    dtype: WeightType
    axes: Axes
    norm: StoredTensor | None = None
    is_norm: bool = False


@dataclass(frozen=True)
class MaskedTensor(ABC):
    """A bundle's tensor and the checkpoint's tensor that it is made from.

    `order` is the order of the rows of a tensor as long as the vocabulary. It is applied while
    reading, so that such a tensor is never in memory as a whole.
    """

    name: str
    source: StoredTensor
    dtype: WeightType
    order: Indices | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the checkpoint."""
        return self.source.shape

    @property
    def size(self) -> int:
        """Bytes in the bundle."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.numpy.itemsize

    def source_ranges(self, *, whole: bool) -> Iterator[NDArray[Any]]:
        """The source's values in order: all at once, or in ranges of about RANGE_BYTES."""
        count = self.source.shape[0]
        step = count if whole else max(1, RANGE_BYTES // max(1, self.source.row_bytes))
        for start in range(0, count, step):
            yield finite_rows(self.source, start, min(start + step, count), self.order)

    @abstractmethod
    def ranges(self) -> Iterator[NDArray[Any]]:
        """The masked values in order. Raises CheckpointError on NaN, Inf or overflow."""


@dataclass(frozen=True)
class GatheredTensor(MaskedTensor):
    """A tensor whose axes are gathered."""

    rows: Gather = IDENTITY
    columns: Gather = IDENTITY

    @classmethod
    def gathered(
        cls, source: SourceTensor, spaces: Mapping[Space, Gather], order: Indices | None = None
    ) -> GatheredTensor:
        """Gather each axis into its space."""
        rows, *rest = [spaces.get(axis, IDENTITY) for axis in source.axes]
        columns = rest[0] if rest else IDENTITY
        if columns.negate is not None:
            raise KeysError(f"{source.name}: signs on the columns of a tensor are not supported")
        return cls(source.name, source.stored, source.dtype, order, rows, columns)

    def ranges(self) -> Iterator[NDArray[Any]]:
        for values in self.source_ranges(whole=not self.rows.is_identity):
            if self.rows.indices is not None:
                values = np.take(values, self.rows.indices, axis=0)
            if self.rows.negate is not None:
                self.source.dtype.negate(values, self.rows.negate)
            if self.columns.indices is not None:
                values = np.take(values, self.columns.indices, axis=1)
            if self.dtype is not self.source.dtype:
                with np.errstate(over="ignore"):
                    values = values.astype(self.dtype.numpy)
                check_finite(self.source, values, self.dtype, f"overflows {self.dtype.name}")
            yield np.ascontiguousarray(values)


def finite_rows(
    source: StoredTensor, start: int, stop: int, order: Indices | None = None
) -> NDArray[Any]:
    """Rows start..stop, or those that `order` puts there. Raises CheckpointError on NaN or Inf."""
    values = source.rows(start, stop) if order is None else source.take(order[start:stop])
    check_finite(source, values, source.dtype, "holds NaN or Inf")
    return values


def check_finite(
    source: StoredTensor, values: NDArray[Any], dtype: WeightType, problem: str
) -> None:
    """Raise CheckpointError, naming the tensor, where a value is NaN or infinite."""
    if not dtype.all_finite(values):
        raise CheckpointError(f"tensor {source.name} {problem}")
