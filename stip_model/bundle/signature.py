"""Public keys, and the check of a bundle's signature (SPEC.md, "Signatures").

Holds no secret. Imports `cryptography` only when it checks a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stip_model.bundle.hexadecimal import from_hex
from stip_model.errors import BundleError, PublicKeyError, StipError

PUBLIC_FORMAT = "stip-public-key"
SIGNATURE_FORMAT = "stip-signature"
VERSION = 1
SIGNATURE = "manifest.sig"
MANIFEST = "manifest.json"
# A signature over something else that the same key signs never begins like this.
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
    """The content of manifest.sig: 64 bytes, and the key that claims to have made them."""

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
    """Read a public key file. Raises PublicKeyError."""
    content = _read(path, PUBLIC_FORMAT, PublicKeyError)
    return PublicKey(_bytes(path, content, "key", PUBLIC_BYTES, PublicKeyError))


def read_signature(folder: Path) -> Signature | None:
    """Read a bundle's signature without checking it. Returns None for a bundle without one.

    Raises BundleError for a damaged file.
    """
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
            hint="are these the bundle and the public key that you meant?",
        )
    _check(folder, manifest, signature)


def check_any_signature(folder: Path) -> Signature | None:
    """Check a bundle's signature, if it has one, with the key that the signature names.

    Returns the signature. It does not prove who made the bundle. Raises BundleError.
    """
    signature = read_signature(folder)
    if signature is not None:
        _check(folder, (folder / MANIFEST).read_bytes(), signature)
    return signature


def _check(folder: Path, manifest: bytes, signature: Signature) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        public = Ed25519PublicKey.from_public_bytes(signature.key.raw)
        public.verify(signature.raw, PREFIX + manifest)
    except (InvalidSignature, ValueError):
        raise BundleError(f"{folder / MANIFEST} is altered: its signature does not match") from None


def check_nothing_else(folder: Path, listed: Iterable[str]) -> None:
    """Check that a signed bundle holds no file that its manifest does not list.

    Such a file could take the place of one that the checkpoint did not have, such as a chat
    template. Hidden files are never read, so they are allowed. Raises BundleError.
    """
    known = {MANIFEST, SIGNATURE, *listed}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not path.name.startswith("."):
            raise BundleError(
                f"{path} is not listed in the signed manifest", hint="move it out of the bundle"
            )


def _read(path: Path, expected: str, error_type: type[StipError]) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # reading a pipe could wait forever
            raise error_type(f"cannot read {path}: not a regular file")
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
            hint="stip-keys new --signing writes the public key next to the signing key, as .pub"
            if expected == PUBLIC_FORMAT
            else None,
        )
    if content.get("version") != VERSION:
        raise error_type(
            f"{path}: version {content.get('version')!r} is not supported (known: {VERSION})"
        )
    return content


def _bytes(
    path: Path, content: dict[str, Any], name: str, size: int, error_type: type[StipError]
) -> bytes:
    try:
        return from_hex(content[name], size)
    except (KeyError, TypeError, ValueError):
        raise error_type(
            f"{path}: damaged: its {name} is not {size} bytes in lower-case hexadecimal"
        ) from None
