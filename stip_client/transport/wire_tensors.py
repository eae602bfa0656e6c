"""NumPy arrays to and from the protocol's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import Logits
from stip.v1.tensor_pb2 import DataType, Tensor
from stip_client.errors import RequestError, ServerError
from stip_model.bundle.weight_types import WEIGHT_TYPES

DTYPES: dict[int, np.dtype[Any]] = {
    **{each.wire: each.numpy for each in WEIGHT_TYPES.values()},
    DataType.DATA_TYPE_INT32: np.dtype("<i4"),
}
WIRE_TYPES = {each.name: each.wire for each in WEIGHT_TYPES.values()}


@dataclass(frozen=True)
class LogitsArrays:
    """Logits as arrays: values [rows, width] float32; with top k also indices [rows, k] and
    log_sum_exp [rows]."""

    values: NDArray[np.float32]
    indices: NDArray[np.int32] | None = None
    log_sum_exp: NDArray[np.float32] | None = None


def encode(values: NDArray[Any], dtype: DataType) -> Tensor:
    """A tensor of the values, cast to a wire type. Raises RequestError if they overflow it."""
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(values, dtype=DTYPES[dtype])
    if not np.isfinite(cast.astype(np.float32)).all():
        raise RequestError(
            f"an embedding does not fit into {DataType.Name(dtype)}",
            hint="use dtype='bfloat16' or dtype='float32' for this model",
        )
    return Tensor(dtype=dtype, shape=cast.shape, data=cast.tobytes())


def decode(tensor: Tensor) -> NDArray[Any]:
    """The array in a tensor. Raises ServerError if its type, shape and size do not agree."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None or prod(tensor.shape) * dtype.itemsize != len(tensor.data):
        raise ServerError("the server sent a malformed tensor")
    return np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)


def decode_hidden_states(tensor: Tensor, hidden_size: int) -> NDArray[np.float32]:
    """Final hidden states, float32 [rows, hidden_size]. Raises ServerError if malformed."""
    values = decode(tensor).astype(np.float32)
    if values.ndim != 2 or values.shape[1] != hidden_size or not np.isfinite(values).all():
        raise ServerError("the server sent malformed hidden states")
    return values


def decode_logits(logits: Logits, width: int, vocab_size: int) -> LogitsArrays:
    """The arrays of logits with `width` columns. Raises ServerError if malformed."""
    values = decode(logits.values).astype(np.float32)
    if values.ndim != 2 or values.shape[1] != width or not np.isfinite(values).all():
        raise ServerError("the server sent malformed logits")
    if not logits.HasField("indices"):
        if width != vocab_size:
            raise ServerError("the server sent the largest logits without their indices")
        return LogitsArrays(values)
    indices, log_sum_exp = decode(logits.indices), decode(logits.log_sum_exp)
    if (
        indices.dtype != DTYPES[DataType.DATA_TYPE_INT32]
        or indices.shape != values.shape
        or log_sum_exp.shape != values.shape[:1]
        or not np.isfinite(log_sum_exp).all()
        or indices.min(initial=0) < 0
        or indices.max(initial=0) >= vocab_size
    ):
        raise ServerError("the server sent malformed top-k logits")
    return LogitsArrays(values, indices, log_sum_exp)
