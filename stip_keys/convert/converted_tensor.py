"""One tensor on its way from a checkpoint to a bundle: gathered, cast and checked by row ranges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.errors import CheckpointError
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import IDENTITY, Gather
from stip_model.bundle.weight_types import WeightType

# Small enough to stay in a core's cache share, large enough that a call costs nothing.
RANGE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class ConvertedTensor:
    """One tensor of a bundle: where it comes from and how its axes are gathered.

    `order`, where there is one, says which rows come in which order, before all else: it is for an
    axis as long as the vocabulary, and never takes the whole tensor.
    """

    name: str
    source: StoredTensor
    dtype: WeightType
    rows: Gather = IDENTITY
    columns: Gather = IDENTITY
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
        """The converted values in order. Raises CheckpointError on NaN, Inf or overflow.

        An axis of rows that moves is read whole; any other is read in ranges of RANGE_BYTES, so
        that the vocabulary-sized tensors never stand in memory.
        """
        count = self.source.shape[0]
        moves = not self.rows.is_identity
        step = count if moves else max(1, RANGE_BYTES // max(1, self.source.row_bytes))
        for start in range(0, count, step):
            values = read_rows(self.source, start, min(start + step, count), self.order)
            check_finite(self.source, values, self.source.dtype, "holds NaN or Inf")
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


def read_rows(source: StoredTensor, start: int, stop: int, order: Indices | None) -> NDArray[Any]:
    """Rows start..stop, or those that an order puts there."""
    return source.rows(start, stop) if order is None else source.take(order[start:stop])


def check_finite(
    source: StoredTensor, values: NDArray[Any], dtype: WeightType, problem: str
) -> None:
    """Raise CheckpointError, naming the tensor, where a value is NaN or infinite."""
    if not dtype.all_finite(values):
        raise CheckpointError(f"tensor {source.name} {problem}")
