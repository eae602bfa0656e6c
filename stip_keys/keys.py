"""The two kinds of key: the developer's master key and the client key derived from it.

Neither shows its secret in a repr or an error.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import numpy as np

from stip_keys import derivation
from stip_keys.derivation import KEY_BYTES, Indices
from stip_keys.errors import KeyFileError
from stip_keys.permutation import block_diagonal

SCHEMES = ("permutation", "none")


@dataclass(frozen=True)
class MasterKey:
    """32 secret bytes from which every permutation of a model is derived."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> MasterKey:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_base_seed(cls, base_seed: int) -> MasterKey:
        """A reproducible key for tests and demonstrations: anyone can make it, it hides nothing."""
        text = f"{derivation.LABEL_PREFIX}base-seed/{base_seed}"
        return cls(hashlib.sha256(text.encode("ascii")).digest())

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the key and do not tell it."""
        return derivation.subkey(self.secret, "fingerprint")[:16].hex()

    def subkey(self, label: str) -> bytes:
        """The 32-byte key of one place in the model."""
        return derivation.subkey(self.secret, label)

    def permutation(self, label: str, n: int) -> Indices:
        """The permutation of n at one place in the model: int64 [n]."""
        return derivation.permutation(self.subkey(label), n)

    def quarter_turns(self, label: str, n: int) -> Indices:
        """n quarter-turns at one place in the model: int64 [n], each 0..3."""
        return derivation.quarter_turns(self.subkey(label), n)

    def residual_permutation(self, layer: int, hidden_size: int, blocks: int) -> Indices:
        """p_layer, the residual stream's permutation before a layer: int64 [hidden_size]."""
        size = hidden_size // blocks
        labels = [derivation.residual_block_label(layer, block) for block in range(blocks)]
        return block_diagonal([self.permutation(label, size) for label in labels])

    def client_key(self, hidden_size: int, blocks: int) -> ClientKey:
        """What a client needs of this key: the subkeys of p_0, and no other."""
        labels = [derivation.residual_block_label(0, block) for block in range(blocks)]
        return ClientKey("permutation", hidden_size, tuple(self.subkey(each) for each in labels))


@dataclass(frozen=True)
class ClientKey:
    """The subkeys of the client's input permutation p_0, one a block.

    Scheme "none" has no subkeys: its permutation is the identity and hides nothing.
    """

    scheme: str
    hidden_size: int
    subkeys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise KeyFileError(f"unknown scheme {self.scheme!r} (known: {', '.join(SCHEMES)})")
        if (self.scheme == "none") != (not self.subkeys):
            raise KeyFileError(f"scheme {self.scheme!r} with {len(self.subkeys)} subkeys")
        if self.hidden_size < 1 or self.hidden_size % max(1, len(self.subkeys)):
            raise KeyFileError(
                f"{len(self.subkeys)} blocks do not divide hidden_size {self.hidden_size}"
            )
        if any(len(subkey) != KEY_BYTES for subkey in self.subkeys):
            raise KeyFileError(f"a subkey does not have {KEY_BYTES} bytes")

    @classmethod
    def identity(cls, hidden_size: int) -> ClientKey:
        """The key of scheme "none"."""
        return cls("none", hidden_size, ())

    @property
    def key_id(self) -> str:
        """The fingerprint of this key, 32 hexadecimal digits (SPEC.md, "Client key")."""
        lines = ["stip-client-key/1", self.scheme, str(self.hidden_size)]
        lines += [f"{label} {subkey.hex()}" for label, subkey in self.labelled_subkeys().items()]
        text = "".join(line + "\n" for line in lines)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    def labelled_subkeys(self) -> dict[str, bytes]:
        """The subkeys under their labels, in block order."""
        return {
            derivation.residual_block_label(0, block): subkey
            for block, subkey in enumerate(self.subkeys)
        }

    def input_permutation(self) -> Indices:
        """p_0, which takes an embedded row to what the client sends: int64 [hidden_size]."""
        if self.scheme == "none":
            return np.arange(self.hidden_size)
        size = self.hidden_size // len(self.subkeys)
        return block_diagonal([derivation.permutation(key, size) for key in self.subkeys])
