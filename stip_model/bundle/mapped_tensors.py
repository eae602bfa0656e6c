"""Maps the tensors of a safetensors file into memory: the system reads a page when it is used.

Ours, because the safetensors library's reader for NumPy copies tensors and knows no bfloat16.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_model.bundle.weight_types import BY_SAFETENSORS_NAME
from stip_model.errors import BundleError

HEADER_MAX_BYTES = 16 * 1024 * 1024


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return every tensor of a file by its name, read-only. Raises BundleError.

    SPEC.md, section 5, has the format.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_MAX_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", offset=0).view(np.ndarray)[8 + length :]
        header.pop("__metadata__", None)
        return {name: _tensor(data, entry) for name, entry in header.items()}
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except (
        ValueError,
        OverflowError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise BundleError(f"{path} is not a safetensors file of weights: {error}") from error


def _tensor(data: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = BY_SAFETENSORS_NAME[entry["dtype"]].numpy, tuple(map(int, entry["shape"]))
    begin, end = map(int, entry["data_offsets"])
    if not 0 <= begin <= end <= len(data) or end - begin != prod(shape) * dtype.itemsize:
        raise ValueError(f"data_offsets {begin} to {end} for shape {list(shape)}")
    return data[begin:end].view(dtype).reshape(shape)
