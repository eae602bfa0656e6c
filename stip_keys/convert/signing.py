"""Signing keys, and the signing of bundles with them (SPEC.md, "Signatures").

`cryptography` is imported only when a key is used.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stip_keys.masks.derivation import KEY_BYTES
from stip_keys.masks.errors import KeyFileError
from stip_keys.masks.key_file import create_key_file, read_secret, write_secret
from stip_keys.masks.passphrase import ON_TERMINAL, Passphrase, PassphraseSource
from stip_model.bundle.signature import MANIFEST, PREFIX, SIGNATURE, PublicKey, Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNING_FORMAT = "stip-signing-key"
PUBLIC_SUFFIX = ".pub"


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key: the 32 bytes that RFC 8032 begins with."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def public_key(self) -> PublicKey:
        """The key that others check its signatures with."""
        return PublicKey(self._private_key().public_key().public_bytes_raw())

    def sign(self, manifest: bytes) -> Signature:
        """The signature of the bytes of a manifest.json."""
        return Signature(self.public_key, self._private_key().sign(PREFIX + manifest))

    def _private_key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.secret)


def write_signing_key(path: Path, key: SigningKey, passphrase: Passphrase | None = None) -> Path:
    """Create a signing key file, and its public key next to it, with the suffix .pub.

    Returns the path of the public key, which anyone may read. Raises KeyFileError, and leaves
    neither file, where one of them exists or cannot be written.
    """
    public_path = path.parent / (path.stem + PUBLIC_SUFFIX)
    if public_path == path:
        raise KeyFileError(
            f"{path} is the public key's name: the signing key needs another",
            hint="choose a name such as signing.key",
        )
    public_key = key.public_key
    write_secret(path, SIGNING_FORMAT, key.secret, public_key.fingerprint, passphrase)
    try:
        create_key_file(public_path, public_key.content(), mode=0o666)  # as the umask has it
    except KeyFileError:
        path.unlink()
        raise
    return public_path


def read_signing_key(path: Path, source: PassphraseSource = ON_TERMINAL) -> SigningKey:
    """Read a signing key file; `source` gives the passphrase where it is wrapped.

    Raises KeyFileError and PassphraseError; warns when others can read the file.
    """
    secret, _ = read_secret(path, SIGNING_FORMAT, source)
    return SigningKey(secret)


def sign_bundle(folder: Path, key: SigningKey) -> None:
    """Write manifest.sig next to a finished manifest.json, which lists every other digest.

    Raises KeyFileError where there is one already.
    """
    signature = key.sign((folder / MANIFEST).read_bytes())
    create_key_file(folder / SIGNATURE, signature.content(), mode=0o666)
