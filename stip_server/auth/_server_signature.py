"""The check of a bundle's signature with a public key (SPEC.md, "Signatures").

`cryptography` is imported when a signature is checked, and not before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stip_server.auth import watched_file
from stip_server.errors import BundleError, StartError

PUBLIC_FORMAT = "stip-public-key"
SIGNATURE_FORMAT = "stip-signature"
VERSION = 1
SIGNATURE = "manifest.sig"
PREFIX = b"stip-signature/1\n"
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key (RFC 8032), 32 bytes."""

    raw: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the key."""
        text = f"{PUBLIC_FORMAT}/{VERSION}\n{self.raw.hex()}\n"
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def read_public_key(path: Path) -> PublicKey:
    """Read a public key file. Raises StartError."""
    content = _read(path, "public key", PUBLIC_FORMAT)
    return PublicKey(_bytes(path, content, "key", PUBLIC_BYTES))


def check_signature(folder: Path, manifest: bytes, key: PublicKey) -> None:
    """Check that `key` has signed the bytes of a bundle's manifest.json. Raises StartError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    path = folder / SIGNATURE
    if not path.exists():
        raise BundleError(
            f"{folder} is not signed: it holds no {SIGNATURE}",
            hint="stip-keys convert --sign signs bundles",
        )
    content = _read(path, "signature", SIGNATURE_FORMAT)
    signer = PublicKey(_bytes(path, content, "key", PUBLIC_BYTES))
    signature = _bytes(path, content, "signature", SIGNATURE_BYTES)
    if signer != key:
        raise BundleError(
            f"{folder} is signed by {signer.fingerprint}, not by {key.fingerprint}",
            hint="is it the bundle, and the public key, that you meant?",
        )
    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, PREFIX + manifest)
    except (InvalidSignature, ValueError):
        raise BundleError(
            f"{folder / 'manifest.json'} is altered: its signature does not match"
        ) from None


def _read(path: Path, what: str, expected: str) -> dict[str, Any]:
    raw = watched_file.read(path, what, secret=False)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != expected:
        raise StartError(f"{path} is not a {expected} file: damaged, or something else")
    if content.get("version") != VERSION:
        raise StartError(
            f"{path}: version {content.get('version')!r} is not supported (known: {VERSION})"
        )
    return content


def _bytes(path: Path, content: dict[str, Any], name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(content[name])
    except (KeyError, TypeError, ValueError):
        value = b""
    # fromhex takes upper case and spaces as well
    if len(value) != size or value.hex() != content[name]:
        raise StartError(
            f"{path}: damaged: its {name} is not {size} bytes in lower-case hexadecimal"
        )
    return value
