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
    """A floating-point type of weights and hidden states, little-endian.

    `bits` is the unsigned integer of the same width. `exponent` are the bits that are all set in
    NaN and in infinity.
    """

    name: str
    safetensors: str
    wire: DataType
    numpy: np.dtype[Any]
    bits: np.dtype[Any]
    exponent: int

    def all_finite(self, values: NDArray[Any]) -> bool:
        """Return whether no element is NaN or infinite."""
        bits = values.view(self.bits)
        mask = self.bits.type(self.exponent)
        # two passes over one temporary; np.isfinite is many times slower on 16-bit floats
        return not bool(((bits & mask) == mask).any())

    def negate(self, values: NDArray[Any], where: NDArray[np.bool_]) -> None:
        """Flip the sign bit in the rows of `values` that `where` selects, in place.

        `values` must be contiguous.
        """
        sign = self.bits.type(1 << (8 * self.bits.itemsize - 1))
        values.view(self.bits)[where] ^= sign


_U2, _U4 = np.dtype("<u2"), np.dtype("<u4")
WEIGHT_TYPES = {
    name: WeightType(name, safetensors, wire, np.dtype(numpy), bits, exponent)
    for name, safetensors, wire, numpy, bits, exponent in (
        ("float16", "F16", DataType.DATA_TYPE_FLOAT16, "<f2", _U2, 0x7C00),
        ("bfloat16", "BF16", DataType.DATA_TYPE_BFLOAT16, ml_dtypes.bfloat16, _U2, 0x7F80),
        ("float32", "F32", DataType.DATA_TYPE_FLOAT32, "<f4", _U4, 0x7F800000),
    )
}
BY_SAFETENSORS_NAME = {each.safetensors: each for each in WEIGHT_TYPES.values()}
BY_WIRE_TYPE: dict[int, WeightType] = {each.wire: each for each in WEIGHT_TYPES.values()}


def data_type_name(wire: int) -> str:
    """Return the name of a wire type, for example "float16", or "unknown (n)"."""
    if wire not in DataType.values():
        return f"unknown ({wire})"
    return DataType.Name(DataType.ValueType(wire)).removeprefix("DATA_TYPE_").lower()
