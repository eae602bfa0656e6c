"""Describes key files and bundles without telling a secret, and checks every digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format

from stip.v1.manifest_pb2 import BundleKind, Manifest, Scheme
from stip.v1.tensor_pb2 import DataType
from stip_keys.bundle import MANIFEST, check_files, read_manifest
from stip_keys.errors import BundleError, KeyFileError
from stip_keys.keyfile import (
    CLIENT_FORMAT,
    MASTER_FORMAT,
    read_client_key,
    read_key_file,
    read_master_key,
)

Description = dict[str, Any]


def inspect(path: Path) -> list[Description]:
    """Describe a key file, a bundle, or a folder that holds a server and a client bundle.

    Raises KeyFileError or BundleError for whatever is damaged.
    """
    if path.is_file():
        return [_describe_key(path)]
    if (path / MANIFEST).exists():
        return [_describe_bundle(path)]
    bundles = [path / name for name in ("server", "client") if (path / name / MANIFEST).exists()]
    if not bundles:
        raise BundleError(
            f"{path} is neither a key file nor a bundle",
            hint="give a key file, a bundle's folder, or the folder that convert wrote",
        )
    described = [_describe_bundle(bundle) for bundle in bundles]
    if len({each["key_id"] for each in described}) > 1:
        raise BundleError(f"{path}: the server and the client bundle have different keys")
    return described


def _describe_key(path: Path) -> Description:
    kind = read_key_file(path, check_mode=False).get("format")
    if kind == MASTER_FORMAT:
        master = read_master_key(path)
        return {"path": str(path), "kind": "master key", "fingerprint": master.fingerprint}
    if kind == CLIENT_FORMAT:
        client = read_client_key(path)
        return {
            "path": str(path),
            "kind": "client key",
            "scheme": client.scheme,
            "key_id": client.key_id,
            "hidden_size": client.hidden_size,
            "residual_blocks": max(1, len(client.input)),
        }
    raise KeyFileError(f"{path} is not a key file: its format is {kind!r}")


def _describe_bundle(folder: Path) -> Description:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    kind = _short(BundleKind.Name(manifest.kind), "BUNDLE_KIND_")
    if manifest.kind == BundleKind.BUNDLE_KIND_CLIENT:
        _check_client_key(folder, manifest)
    return {
        "path": str(folder),
        "kind": f"{kind} bundle",
        "scheme": _short(Scheme.Name(manifest.scheme), "SCHEME_"),
        "key_id": manifest.key_id,
        "bundle_id": manifest.bundle_id,
        "dtype": _short(DataType.Name(manifest.dtype), "DATA_TYPE_"),
        "residual_blocks": manifest.residual_blocks,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "model": json_format.MessageToDict(manifest.model, preserving_proto_field_name=True),
    }


def _check_client_key(folder: Path, manifest: Manifest) -> None:
    key = read_client_key(folder / "client.key")
    if key.key_id != manifest.key_id:
        raise BundleError(
            f"{folder}: client.key has key_id {key.key_id}, the manifest {manifest.key_id}"
        )


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
