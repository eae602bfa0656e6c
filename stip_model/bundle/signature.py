"""Public keys, and the check of a bundle's signature (SPEC.md, "Signatures").

Holds no secret. `cryptography` is imported when a signature is checked, and not before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stip_keys.masks.errors import BundleError, KeyFileError, KeysError
from stip_model.bundle.hexadecimal import from_hex

PUBLIC_FORMAT = "stip-public-key"
SIGNATURE_FORMAT = "stip-signature"
VERSION = 1
SIGNATURE = "manifest.sig"
MANIFEST = "manifest.json"
# So that no signature of this kind passes for one of anything else that is signed with the key.
PREFIX = b"stip-signature/1\n"
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key (RFC 8032), 32 bytes."""

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the key."""
        text = f"{PUBLIC_FORMAT}/{VERSION}\n{self.raw.hex()}\n"
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    def content(self) -> dict[str, Any]:
        """The public key file's JSON object."""
        return {"format": PUBLIC_FORMAT, "version": VERSION, "key": self.raw.hex()}


@dataclass(frozen=True)
class Signature:
    """What manifest.sig holds: 64 bytes, and the key that they are said to be made with."""

    key: PublicKey
    raw: bytes

    def content(self) -> dict[str, Any]:
        """The signature file's JSON object."""
        return {
            "format": SIGNATURE_FORMAT,
            "version": VERSION,
            "key": self.key.raw.hex(),
            "signature": self.raw.hex(),
        }


def read_public_key(path: Path) -> PublicKey:
    """Read a public key file. Raises KeyFileError."""
    content = _read(path, PUBLIC_FORMAT, KeyFileError)
    return PublicKey(_bytes(path, content, "key", PUBLIC_BYTES, KeyFileError))


def read_signature(folder: Path) -> Signature | None:
    """A bundle's signature, unchecked; None where there is none. Raises BundleError for damage."""
    path = folder / SIGNATURE
    if not path.exists():
        return None
    content = _read(path, SIGNATURE_FORMAT, BundleError)
    key = PublicKey(_bytes(path, content, "key", PUBLIC_BYTES, BundleError))
    return Signature(key, _bytes(path, content, "signature", SIGNATURE_BYTES, BundleError))


def check_signature(folder: Path, manifest: bytes, key: PublicKey) -> None:
    """Check that `key` has signed the bytes of a bundle's manifest.json. Raises BundleError."""
    signature = read_signature(folder)
    if signature is None:
        raise BundleError(
            f"{folder} is not signed: it holds no {SIGNATURE}",
            hint="stip-keys convert --sign signs bundles",
        )
    if signature.key != key:
        raise BundleError(
            f"{folder} is signed by {signature.key.fingerprint}, not by {key.fingerprint}",
            hint="is it the bundle, and the public key, that you meant?",
        )
    check_own_signature(folder, manifest, signature)


def check_own_signature(folder: Path, manifest: bytes, signature: Signature) -> None:
    """Check a signature with the key that it names, whoever's that is. Raises BundleError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(signature.key.raw)
        public.verify(signature.raw, PREFIX + manifest)
    except (InvalidSignature, ValueError):
        raise BundleError(f"{folder / MANIFEST} is altered: its signature does not match") from None


def check_signed_manifest(folder: Path) -> None:
    """Check a bundle's manifest.json against the signature beside it, whoever made that, if there
    is one. Raises BundleError."""
    signature = read_signature(folder)
    if signature is not None:
        check_own_signature(folder, (folder / MANIFEST).read_bytes(), signature)


def check_nothing_else(folder: Path, listed: Iterable[str]) -> None:
    """Check that a signed bundle holds no file that its manifest does not list.

    One could stand for a file that the checkpoint did not have, such as a chat template. Hidden
    files, which some systems leave everywhere, are never read. Raises BundleError.
    """
    known = {MANIFEST, SIGNATURE, *listed}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            raise BundleError(
                f"{path} is not listed in the signed manifest", hint="move it out of the bundle"
            )


def _read(path: Path, expected: str, error_type: type[KeysError]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise error_type(f"cannot read {path}: {error.strerror}") from error
    try:
        content = json.loads(raw) if len(raw) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise error_type(f"{path} is not a {expected} file: damaged, or something else")
    if content.get("format") != expected:
        raise error_type(
            f"{path} is not a {expected} file: its format is {content.get('format')!r}",
            hint="stip-keys new --signing writes the public key beside the signing key, as .pub"
            if expected == PUBLIC_FORMAT
            else None,
        )
    if content.get("version") != VERSION:
        raise error_type(
            f"{path}: version {content.get('version')!r} is not supported (known: {VERSION})"
        )
    return content


def _bytes(
    path: Path, content: dict[str, Any], name: str, size: int, error_type: type[KeysError]
) -> bytes:
    try:
        return from_hex(content[name], size)
    except (KeyError, TypeError, ValueError):
        raise error_type(
            f"{path}: damaged: its {name} is not {size} bytes in lower-case hexadecimal"
        ) from None
