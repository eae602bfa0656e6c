"""Describes key files and bundles without printing secrets, and checks every digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format

from stip.v1.manifest_pb2 import BundleKind
from stip_keys.convert.signing import SIGNING_FORMAT, read_signing_key
from stip_keys.masks.errors import KeyFileError
from stip_keys.masks.key_file import (
    CLIENT_FORMAT,
    MASTER_FORMAT,
    expect_format,
    read_client_key,
    read_key_file,
    read_master_key,
    warn_unless_secret,
)
from stip_keys.masks.passphrase import Passphrase, not_wrapped
from stip_keys.masks.wrapped_key import parse, wrapped_format
from stip_model.bundle.manifest import check_files, kind_name, read_manifest
from stip_model.bundle.modes import head_name, scheme_name
from stip_model.bundle.signature import (
    MANIFEST,
    PUBLIC_FORMAT,
    PublicKey,
    check_any_signature,
    check_nothing_else,
    read_public_key,
)
from stip_model.bundle.weight_types import data_type_name
from stip_model.errors import BundleError

Description = dict[str, Any]


def inspect(
    path: Path, *, verify_key: PublicKey | None = None, passphrase: Passphrase | None = None
) -> list[Description]:
    """Describe a key file, a bundle, or a folder that holds a server and a client bundle.

    A wrapped key is opened only if there is a `passphrase`. If there is a `verify_key`, it must
    have signed the bundles. Raises KeyFileError, PublicKeyError, PassphraseError or BundleError
    for what is damaged or does not match.
    """
    if path.is_file():
        if verify_key is not None:
            raise KeyFileError(f"{path} is no bundle: only bundles are signed")
        return [_describe_key(path, passphrase)]
    if passphrase is not None:
        raise not_wrapped(path)
    if (path / MANIFEST).exists():
        return [_describe_bundle(path, verify_key)]
    bundles = [path / name for name in ("server", "client") if (path / name / MANIFEST).exists()]
    if not bundles:
        raise BundleError(
            f"{path} is neither a key file nor a bundle",
            hint="give a key file, a bundle's folder, or the folder that convert wrote",
        )
    described = [_describe_bundle(bundle, verify_key) for bundle in bundles]
    if len({each["key_id"] for each in described}) > 1:
        raise BundleError(f"{path}: the server and the client bundle have different keys")
    return described


def _describe_key(path: Path, passphrase: Passphrase | None) -> Description:
    content = read_key_file(path, check_mode=False)
    kind = content.get("format")
    for plain, name in ((MASTER_FORMAT, "master key"), (SIGNING_FORMAT, "signing key")):
        if kind == wrapped_format(plain):
            return _describe_wrapped(path, plain, name, passphrase)
    if passphrase is not None:
        raise not_wrapped(path)
    described: Description
    if kind == MASTER_FORMAT:
        described = {"kind": "master key", "fingerprint": read_master_key(path).fingerprint}
    elif kind == SIGNING_FORMAT:
        fingerprint = read_signing_key(path).public_key.fingerprint
        described = {"kind": "signing key", "fingerprint": fingerprint}
    elif kind == PUBLIC_FORMAT:
        described = {"kind": "public key", "fingerprint": read_public_key(path).fingerprint}
    elif kind == CLIENT_FORMAT:
        client = read_client_key(path)
        described = {
            "kind": "client key",
            "scheme": client.scheme,
            "key_id": client.key_id,
            "hidden_size": client.hidden_size,
            "subkeys": {
                "input": len(client.input),
                "output": len(client.output),
                "vocabulary": int(client.vocabulary is not None),
            },
        }
    else:
        raise KeyFileError(f"{path} is not a key file: its format is {kind!r}")
    return {"path": str(path), **described}


def _describe_wrapped(
    path: Path, plain: str, name: str, passphrase: Passphrase | None
) -> Description:
    content = read_key_file(path)
    expect_format(path, content, wrapped_format(plain))
    wrapped = parse(path, content)
    warn_unless_secret(path, is_secret=wrapped.secret)
    if passphrase is not None:
        wrapped.unwrap(path, passphrase)
    return {
        "path": str(path),
        "kind": f"{name}, wrapped",
        "fingerprint": wrapped.fingerprint,
        "created": wrapped.created,
        "passphrase": "right" if passphrase is not None else "not tried",
    }


def _describe_bundle(folder: Path, verify_key: PublicKey | None) -> Description:
    manifest = read_manifest(folder, verify_key=verify_key)
    check_files(folder, manifest)
    if verify_key is not None:
        check_nothing_else(folder, (file.name for file in manifest.files))
    signed: Description = {}
    if (signature := check_any_signature(folder)) is not None:
        verified = verify_key is not None
        signed = {"signed_by": signature.key.fingerprint, "signer_verified": verified}
    if manifest.kind == BundleKind.BUNDLE_KIND_CLIENT:
        key_id = read_client_key(folder / "client.key").key_id
        if key_id != manifest.key_id:
            raise BundleError(
                f"{folder}: client.key has key_id {key_id}, the manifest {manifest.key_id}"
            )
    return {
        "path": str(folder),
        "kind": f"{kind_name(manifest.kind)} bundle",
        "scheme": scheme_name(manifest.scheme),
        "head": head_name(manifest.head),
        "key_id": manifest.key_id,
        "bundle_id": manifest.bundle_id,
        **signed,
        "dtype": data_type_name(manifest.dtype),
        "residual_blocks": manifest.residual_blocks,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "model": json_format.MessageToDict(manifest.model, preserving_proto_field_name=True),
    }
