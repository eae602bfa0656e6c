"""Writes and checks bundles: safetensors files written row by row, digests and the manifest.

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

from stip.v1.manifest_pb2 import BundleFile, Head, Manifest, Scheme
from stip_keys.masks.errors import BundleError
from stip_model.bundle.signature import MANIFEST, PublicKey, check_signature

FORMAT_VERSION = 1
READ_BYTES = 4 * 1024 * 1024
KNOWN = "known schemes: none, permutation, rotation; known heads: server, client, sealed"


# What the command line and client keys call what manifests hold.
SCHEMES = {
    "none": Scheme.SCHEME_NONE,
    "permutation": Scheme.SCHEME_PERMUTATION,
    "rotation": Scheme.SCHEME_ROTATION,
}
HEADS = {"server": Head.HEAD_SERVER, "client": Head.HEAD_CLIENT, "sealed": Head.HEAD_SEALED}


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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
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


def scheme_name(scheme: Scheme) -> str:
    """What a known scheme is called."""
    return next(name for name, each in SCHEMES.items() if each == scheme)


def head_name(head: Head) -> str:
    """What a known head is called."""
    return next(name for name, each in HEADS.items() if each == (head or Head.HEAD_SERVER))


def read_manifest(folder: Path, verify_key: PublicKey | None = None) -> Manifest:
    """Read manifest.json, whose bytes `verify_key` must have signed. Raises BundleError."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if verify_key is not None:
        check_signature(folder, content, verify_key)
    try:
        manifest = json_format.Parse(content, Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        known = f" ({KNOWN})" if "enum" in str(error) else ""
        raise BundleError(f"{path} is not a manifest: {error}{known}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {manifest.format_version} is not supported "
            f"(known: {FORMAT_VERSION})"
        )
    for file in manifest.files:
        if Path(file.name).name != file.name:
            raise BundleError(f"{path}: {file.name!r} is not the name of a file beside it")
    manifest.head = manifest.head or Head.HEAD_SERVER
    schemes = set(Scheme.values()) - {Scheme.SCHEME_UNSPECIFIED}
    if manifest.scheme not in schemes or manifest.head not in Head.values():
        raise BundleError(
            f"{path}: scheme {manifest.scheme} with head {manifest.head} is not known ({KNOWN})"
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and SHA-256. Raises BundleError naming a wrong one."""
    for expected in manifest.files:
        path = folder / expected.name
        if not path.is_file():
            raise BundleError(f"{path} is missing")
        found = describe_file(path)
        if found.size != expected.size:
            raise BundleError(
                f"{path} has {found.size} bytes, the manifest says {expected.size}: truncated?"
            )
        if found.sha256 != expected.sha256:
            raise BundleError(f"{path} is altered: its SHA-256 differs from the manifest's")
