"""Reads a bundle's manifest and compares the bundle's files with it (SPEC.md, section 5).

Every party reads manifests by the same rule. A reader accepts a field under its name in the .proto
file or in lowerCamelCase, and an enum value as its name or its number. It refuses a field that it
does not know, and an enum value that it does not know, whether name or number. A later writer adds
a field only to bundles of models that need it. So later readers read all bundles of format 1, and
an older reader never computes without a field that changes the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf import json_format

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Head, Manifest
from stip_model.bundle.modes import HEADS, SCHEMES
from stip_model.bundle.signature import MANIFEST, PublicKey, check_signature
from stip_model.bundle.weight_types import WEIGHT_TYPES
from stip_model.errors import BundleError

FORMAT_VERSION = 1
KINDS = {"server": BundleKind.BUNDLE_KIND_SERVER, "client": BundleKind.BUNDLE_KIND_CLIENT}
DTYPES = {each.name: each.wire for each in WEIGHT_TYPES.values()}
ENUMS: Mapping[str, Mapping[str, int]] = {
    "kind": KINDS,
    "scheme": SCHEMES,
    "head": HEADS,
    "dtype": DTYPES,
}


def read_manifest(
    folder: Path, kind: BundleKind | None = None, verify_key: PublicKey | None = None
) -> Manifest:
    """Read a bundle's manifest, which must be of `kind` and signed with `verify_key` if given.

    Its head is never HEAD_UNSPECIFIED. Raises BundleError.
    """
    path = folder / MANIFEST
    wanted = "bundle's" if kind is None else kind_name(kind)
    hint = f"give the {wanted} folder that stip-keys convert wrote" + (
        "" if kind is None else f", OUT/{wanted}"
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    if verify_key is not None:
        check_signature(folder, content, verify_key)
    try:
        manifest = json_format.Parse(content, Manifest())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        known = next((f" ({_known(each)})" for each in ENUMS if f"{each} field" in str(error)), "")
        raise BundleError(f"{path} is not a manifest: {error}{known}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {manifest.format_version} is not supported "
            f"(known: {FORMAT_VERSION})"
        )
    manifest.head = manifest.head or Head.HEAD_SERVER
    for field, values in ENUMS.items():
        value = getattr(manifest, field)
        if value not in values.values():
            raise BundleError(f"{path}: {field} {value} is not known ({_known(field)})")
    if kind is not None and manifest.kind != kind:
        raise BundleError(
            f"{folder} is not a {wanted} bundle but a {kind_name(manifest.kind)} bundle", hint=hint
        )
    for file in manifest.files:
        if Path(file.name).name != file.name:
            raise BundleError(f"{path}: {file.name!r} is not the name of a file in the bundle")
    return manifest


def kind_name(kind: int) -> str:
    """Return the name of a known kind: "server" or "client"."""
    return next(name for name, each in KINDS.items() if each == kind)


def check_file(folder: Path, expected: BundleFile, *, digest: bool = True) -> Path:
    """Compare a file's size, and its SHA-256 if `digest` is true, with its manifest entry.

    Returns the file's path. Raises BundleError.
    """
    path = folder / expected.name
    try:
        if not path.is_file():
            raise BundleError(f"{path} is missing")
        size = path.stat().st_size
        if size != expected.size:
            raise BundleError(
                f"{path} has {size} bytes, the manifest says {expected.size}: truncated?"
            )
        if digest:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected.sha256:
                raise BundleError(f"{path} is altered: its SHA-256 differs from the manifest's")
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    return path


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file's size and SHA-256 with the manifest. Raises BundleError."""
    for file in manifest.files:
        check_file(folder, file)


class ServerBundle:
    """A server bundle's folder and manifest. Files that the manifest does not list are not read.

    With a `verify_key` the manifest must be signed with it. Raises BundleError, also for a file
    that is missing or has another size.
    """

    def __init__(self, folder: Path, verify_key: PublicKey | None = None) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder, BundleKind.BUNDLE_KIND_SERVER, verify_key)
        for file in self.manifest.files:
            check_file(folder, file, digest=False)

    def checked_files(self) -> Iterator[Path]:
        """Yield each file's path after checking its digest. Raises BundleError."""
        for file in self.manifest.files:
            yield check_file(self.folder, file)


def _known(field: str) -> str:
    return f"known: {', '.join(ENUMS[field])}"
