"""The element types of weights, as safetensors, Hugging Face, NumPy and the wire name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from stip.v1.tensor_pb2 import DataType


@dataclass(frozen=True)
class WeightType:
    """A floating-point type that a checkpoint may be stored in."""

    name: str
    safetensors: str
    wire: DataType
    numpy: np.dtype[Any]
    bits: np.dtype[Any]
    exponent: int

    def all_finite(self, values: NDArray[Any]) -> bool:
        """Whether no element is NaN or infinite: its exponent bits are not all set."""
        bits = values.view(self.bits)
        mask = self.bits.type(self.exponent)
        # two passes over one temporary; np.isfinite is many times slower on 16-bit floats
        return not bool(((bits & mask) == mask).any())

    def negate(self, values: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Flip the sign bit of the rows of `values` (contiguous) that `where` names, in place."""
        sign = self.bits.type(1 << (8 * self.bits.itemsize - 1))
        values.view(self.bits)[where] ^= sign


WEIGHT_TYPES = {
    each.name: each
    for each in (
        WeightType(
            "float16",
            "F16",
            DataType.DATA_TYPE_FLOAT16,
            np.dtype(np.float16),
            np.dtype(np.uint16),
            0x7C00,
        ),
        WeightType(
            "bfloat16",
            "BF16",
            DataType.DATA_TYPE_BFLOAT16,
            np.dtype(ml_dtypes.bfloat16),
            np.dtype(np.uint16),
            0x7F80,
        ),
        WeightType(
            "float32",
            "F32",
            DataType.DATA_TYPE_FLOAT32,
            np.dtype(np.float32),
            np.dtype(np.uint32),
            0x7F800000,
        ),
    )
}
BY_SAFETENSORS_NAME = {each.safetensors: each for each in WEIGHT_TYPES.values()}
