"""Writes bundles: safetensors files row by row, digests and the manifest.

Knows nothing about permutations (SPEC.md, "Bundles").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import BundleFile, Manifest
from stip_model.bundle.signature import MANIFEST
from stip_model.errors import BundleError

# name, safetensors dtype, shape, bytes
TensorHeader = tuple[str, str, tuple[int, ...], int]


class SafetensorsWriter:
    """Writes one safetensors file whose tensors arrive in order, in pieces of any size.

    The safetensors library writes from memory only; this writes the same format
    (8-byte little-endian header length, JSON header, data) holding one piece at a time,
    and takes the file's digest on the way.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorHeader]) -> None:
        """`tensors` lists the headers in the order in which the data will arrive."""
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
        """Close the file; its manifest entry."""
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


def describe_file(path: Path) -> BundleFile:
    """The manifest entry of an existing file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    return BundleFile(name=path.name, size=size, sha256=digest.hexdigest())


def bundle_id(files: Iterable[BundleFile]) -> str:
    """The fingerprint of a server bundle: SHA-256 of its "name size sha256" lines, sorted."""
    lines = sorted(f"{file.name} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json: protobuf-JSON with the .proto file's field names."""
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
