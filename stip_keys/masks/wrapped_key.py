"""Secrets wrapped with a passphrase: scrypt and AES-256-GCM (SPEC.md, "Wrapped keys").

A checksum distinguishes a damaged file from a wrong passphrase. `cryptography` is imported only
when a key is wrapped or opened.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stip_keys.masks.errors import KeyFileError, PassphraseError
from stip_keys.masks.passphrase import Passphrase
from stip_model.bundle.hexadecimal import from_hex

VERSION = 1
SECRET_BYTES = 32
SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16
FINGERPRINT_BYTES = 16
# A file states its own scrypt cost. More memory than this is refused; the default takes 128 MiB.
MAX_MEMORY = 1 << 30
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def wrapped_format(plain: str) -> str:
    """The format of a wrapped key file, from that of the plain one."""
    return plain.replace("stip-", "stip-wrapped-", 1)


@dataclass(frozen=True)
class Scrypt:
    """The cost of deriving the wrapping key (RFC 7914): 128 n r bytes of memory, p times."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not (self.r > 0 and self.p > 0 and self.n > 1 and self.n & (self.n - 1) == 0):
            raise ValueError("n is no power of two above 1, or r or p is not positive")
        if self.n.bit_length() > 16 * self.r:
            raise ValueError("n is not below 2^(16 r)")
        if self.memory > MAX_MEMORY:
            raise ValueError(f"128 n r p is {self.memory} bytes, at most {MAX_MEMORY} are allowed")

    @property
    def memory(self) -> int:
        """An upper bound of the memory it takes, in bytes."""
        return 128 * self.n * self.r * self.p

    def derive(self, passphrase: Passphrase, salt: bytes) -> bytes:
        """The 32-byte AES key. Raises PassphraseError where memory is short."""
        from cryptography.hazmat.primitives.kdf import scrypt

        kdf = scrypt.Scrypt(salt=salt, length=32, n=self.n, r=self.r, p=self.p)
        try:
            return kdf.derive(passphrase.secret)
        except MemoryError:
            raise PassphraseError(
                f"not enough memory to try the passphrase: it takes {self.memory >> 20} MiB"
            ) from None


@dataclass(frozen=True)
class WrappedKey:
    """What a wrapped key file holds. It reveals nothing of the key without the passphrase."""

    format: str
    created: str
    secret: bool
    fingerprint: str
    scrypt: Scrypt
    salt: bytes
    nonce: bytes
    ciphertext: bytes = field(repr=False)

    @property
    def header(self) -> bytes:
        """What the ciphertext is bound to, GCM's associated data."""
        lines = (
            f"{self.format}/{VERSION}",
            self.created,
            "secret" if self.secret else "not secret",
            self.fingerprint,
            f"{self.scrypt.n} {self.scrypt.r} {self.scrypt.p} {self.salt.hex()}",
        )
        return "".join(line + "\n" for line in lines).encode("ascii")

    @property
    def checksum(self) -> str:
        """SHA-256 over everything else, in hexadecimal."""
        rest = f"{self.nonce.hex()}\n{self.ciphertext.hex()}\n".encode("ascii")
        return hashlib.sha256(self.header + rest).hexdigest()

    def content(self) -> dict[str, Any]:
        """The file's JSON object."""
        return {
            "format": self.format,
            "version": VERSION,
            "created": self.created,
            "secret": self.secret,
            "fingerprint": self.fingerprint,
            "scrypt": {
                "n": self.scrypt.n,
                "r": self.scrypt.r,
                "p": self.scrypt.p,
                "salt": self.salt.hex(),
            },
            "nonce": self.nonce.hex(),
            "ciphertext": self.ciphertext.hex(),
            "checksum": self.checksum,
        }

    def unwrap(self, path: Path, passphrase: Passphrase) -> bytes:
        """The 32 secret bytes. Raises PassphraseError, naming `path`, for a wrong passphrase."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self.scrypt.derive(passphrase, self.salt)
        try:
            return AESGCM(key).decrypt(self.nonce, self.ciphertext, self.header)
        except InvalidTag:
            raise PassphraseError(f"{path}: wrong passphrase") from None


def wrap(
    secret: bytes,
    passphrase: Passphrase,
    *,
    plain: str,
    created: str,
    is_secret: bool,
    fingerprint: str,
    scrypt: Scrypt | None = None,
) -> WrappedKey:
    """Wrap 32 secret bytes of a key file whose plain format is `plain`, with a fresh salt.

    `scrypt` None stands for the default cost.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(NONCE_BYTES)
    bare = WrappedKey(
        wrapped_format(plain),
        created,
        is_secret,
        fingerprint,
        scrypt or Scrypt(),
        salt,
        nonce,
        ciphertext=b"",
    )
    key = bare.scrypt.derive(passphrase, salt)
    return replace(bare, ciphertext=AESGCM(key).encrypt(nonce, secret, bare.header))


def parse(path: Path, content: dict[str, Any]) -> WrappedKey:
    """Read a wrapped key file's JSON object, whose format and version are already checked.

    Raises KeyFileError, naming `path`, for a damaged file or too expensive scrypt parameters.
    """
    try:
        created, fingerprint, cost = content["created"], content["fingerprint"], content["scrypt"]
        numbers = [cost[name] for name in ("n", "r", "p")]
        salt = from_hex(cost["salt"], SALT_BYTES)
        nonce = from_hex(content["nonce"], NONCE_BYTES)
        ciphertext = from_hex(content["ciphertext"], SECRET_BYTES + TAG_BYTES)
        from_hex(fingerprint, FINGERPRINT_BYTES)
        well_formed = (
            CREATED.fullmatch(created)
            and isinstance(content["secret"], bool)
            and all(type(number) is int for number in numbers)
        )
        recorded = content["checksum"]
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise KeyFileError(f"{path}: damaged: a field is missing or malformed")
    try:
        scrypt = Scrypt(*numbers)
    except ValueError as error:
        raise KeyFileError(f"{path}: damaged, or made to do harm: scrypt's {error}") from None
    wrapped = WrappedKey(
        content["format"],
        created,
        content["secret"],
        fingerprint,
        scrypt,
        salt,
        nonce,
        ciphertext,
    )
    if wrapped.checksum != recorded:
        raise KeyFileError(f"{path}: damaged: its checksum does not match the rest of it")
    return wrapped
