"""Reads a server bundle: its manifest, and its files once their digests are checked.

Knows nothing about MLX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Head, Manifest, Scheme
from stip.v1.tensor_pb2 import DataType
from stip_server.auth._server_signature import PublicKey, check_signature
from stip_server.errors import BundleError

FORMAT_VERSION = 1
WEIGHT_TYPES = (
    DataType.DATA_TYPE_FLOAT16,
    DataType.DATA_TYPE_BFLOAT16,
    DataType.DATA_TYPE_FLOAT32,
)
SCHEMES = (Scheme.SCHEME_NONE, Scheme.SCHEME_PERMUTATION, Scheme.SCHEME_ROTATION)
KNOWN = "known schemes: none, permutation, rotation; known heads: server, client, sealed"
READ_BYTES = 4 * 1024 * 1024


class ServerBundle:
    """A folder with manifest.json and the files it lists. Raises BundleError.

    With a `verify_key` the manifest must be signed with it; files that are not listed are not read.
    """

    def __init__(self, folder: Path, verify_key: PublicKey | None = None) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder / "manifest.json", verify_key)
        if self.manifest.kind != BundleKind.BUNDLE_KIND_SERVER:
            kind = BundleKind.Name(self.manifest.kind)
            raise BundleError(
                f"{folder} is not a server bundle: its kind is {kind}",
                hint="the server takes OUT/server; OUT/client is private to clients",
            )
        self.manifest.head = self.manifest.head or Head.HEAD_SERVER
        if self.manifest.scheme not in SCHEMES or self.manifest.head not in Head.values():
            raise BundleError(
                f"{folder}: the manifest's scheme {self.manifest.scheme} with head "
                f"{self.manifest.head} is not known ({KNOWN})"
            )
        if self.manifest.dtype not in WEIGHT_TYPES:
            raise BundleError(f"{folder}: the manifest names no known dtype")
        for file in self.manifest.files:
            if not (folder / file.name).is_file() or Path(file.name).name != file.name:
                raise BundleError(f"{folder / file.name} is missing")

    def checked_files(self) -> Iterator[Path]:
        """Each file, after its size and SHA-256 have been compared with the manifest's."""
        for file in self.manifest.files:
            path = self.folder / file.name
            _check(path, file)
            yield path


def answer_width(manifest: Manifest) -> int:
    """How many numbers answer a row: the logits of a vocabulary, or where the client has the head
    the row's final hidden state."""
    model, at_client = manifest.model, manifest.head == Head.HEAD_CLIENT
    width: int = model.hidden_size if at_client else model.vocab_size
    return width


def _read_manifest(path: Path, verify_key: PublicKey | None) -> Manifest:
    try:
        content = path.read_bytes()
        if verify_key is not None:
            check_signature(path.parent, content, verify_key)
        manifest = json_format.Parse(content, Manifest())
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}",
            hint="--model takes the server folder that stip-keys convert wrote",
        ) from error
    except (json_format.ParseError, UnicodeDecodeError) as error:
        known = f" ({KNOWN})" if "enum" in str(error) else ""
        raise BundleError(f"{path} is not a manifest: {error}{known}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {manifest.format_version} is not supported "
            f"(known: {FORMAT_VERSION})"
        )
    return manifest


def _check(path: Path, expected: BundleFile) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
            size = file.tell()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    if size != expected.size:
        raise BundleError(f"{path} has {size} bytes, the manifest says {expected.size}: truncated?")
    if digest.hexdigest() != expected.sha256:
        raise BundleError(f"{path} is altered: its SHA-256 differs from the manifest's")
