"""Writes a safetensors file row by row, and computes its SHA-256 on the way.

The safetensors library writes from memory only: a large model would not fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stip.v1.manifest_pb2 import BundleFile
from stip_model.errors import BundleError

# name, safetensors dtype, shape, bytes
TensorHeader = tuple[str, str, tuple[int, ...], int]


class SafetensorsWriter:
    """One file whose tensors arrive in order, in pieces of any size.

    The format is an 8-byte little-endian header length, a JSON header, and the data.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorHeader]) -> None:
        """`tensors` are the headers, in the order of the data."""
        header: dict[str, Any] = {"__metadata__": {"format": "stip"}}
        self._bytes_due = 0
        for name, dtype, shape, size in tensors:
            end = self._bytes_due + size
            header[name] = {
                "dtype": dtype,
                "shape": list(shape),
                "data_offsets": [self._bytes_due, end],
            }
            self._bytes_due = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.name = path.name
        self._size = 0
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        self._put(len(text).to_bytes(8, "little"))
        self._put(text)

    def write(self, values: NDArray[Any]) -> None:
        """Append contiguous values to the data."""
        self._bytes_due -= values.nbytes
        self._put(values.reshape(-1).view("u1").data)

    def finish(self) -> BundleFile:
        """Close the file and return its manifest entry. Raises BundleError for missing data."""
        if self._bytes_due:
            raise BundleError(f"{self.name}: {self._bytes_due} bytes of data are missing")
        self._file.close()
        return BundleFile(name=self.name, size=self._size, sha256=self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, complete or not."""
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
