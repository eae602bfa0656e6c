"""The two kinds of key: the developer's master key and the client key derived from it.

Neither shows its secret in a repr or an error.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

import numpy as np

from stip_keys.masks import derivation
from stip_keys.masks.derivation import KEY_BYTES, Indices
from stip_keys.masks.errors import KeyFileError
from stip_keys.masks.permutation import Mask, PermutationMask, block_diagonal
from stip_keys.masks.rotation import Rotation
from stip_model.bundle.modes import SCHEMES


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
        """32 hexadecimal digits that name the key without revealing it."""
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
        labels = derivation.residual_labels(layer, blocks)
        return block_diagonal([self.permutation(label, hidden_size // blocks) for label in labels])

    def client_key(
        self,
        hidden_size: int,
        blocks: int,
        *,
        scheme: str = "permutation",
        head: str = "server",
        layers: int = 0,
    ) -> ClientKey:
        """The part of this key that a client needs, and nothing else.

        It always holds the subkeys of p_0 or of the rotation. With head "client" and permutations
        it also holds those of p_layers (`layers` is num_hidden_layers), with head "sealed" the
        vocabulary's.
        """
        vocabulary = self.subkey(derivation.VOCABULARY_LABEL) if head == "sealed" else None
        if scheme == "rotation":
            rotation = self.subkey(derivation.ROTATION_LABEL)
            return ClientKey("rotation", hidden_size, (rotation,), vocabulary=vocabulary)

        def subkeys(layer: int) -> tuple[bytes, ...]:
            return tuple(map(self.subkey, derivation.residual_labels(layer, blocks)))

        output = subkeys(layers) if head == "client" else ()
        return ClientKey(
            "permutation", hidden_size, subkeys(0), output, layers if output else 0, vocabulary
        )


@dataclass(frozen=True)
class ClientKey:
    """The subkeys of a client: how it masks its rows, and how it opens what comes back.

    `input` holds one subkey for each block of p_0, or the rotation's only one. `output` holds one
    for each block of p_output_layer, the space of the final hidden states that a client with the
    head receives. `vocabulary` gives the order of a sealed vocabulary. Scheme "none" has no
    subkeys: its mask is the identity and hides nothing.
    """

    scheme: str
    hidden_size: int
    input: tuple[bytes, ...] = field(repr=False)
    output: tuple[bytes, ...] = field(default=(), repr=False)
    output_layer: int = 0
    vocabulary: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise KeyFileError(f"unknown scheme {self.scheme!r} (known: {', '.join(SCHEMES)})")
        if (self.scheme == "none") != (not self.subkeys):
            raise KeyFileError(f"scheme {self.scheme!r} with {len(self.subkeys)} subkeys")
        if self.scheme == "rotation" and (len(self.input) != 1 or self.output):
            raise KeyFileError("scheme 'rotation' with other subkeys than one of a rotation")
        if not self.input and self.scheme != "none":
            raise KeyFileError(f"scheme {self.scheme!r} without the subkeys of the input")
        for named in (self.input, self.output):
            if self.hidden_size < 1 or self.hidden_size % max(1, len(named)):
                raise KeyFileError(
                    f"{len(named)} blocks do not divide hidden_size {self.hidden_size}"
                )
        if any(len(subkey) != KEY_BYTES for subkey in self.subkeys):
            raise KeyFileError(f"a subkey does not have {KEY_BYTES} bytes")

    @classmethod
    def identity(cls, hidden_size: int) -> ClientKey:
        """The key of scheme "none"."""
        return cls("none", hidden_size, ())

    @property
    def subkeys(self) -> tuple[bytes, ...]:
        """Every subkey, in the order of the key file."""
        vocabulary = () if self.vocabulary is None else (self.vocabulary,)
        return (*self.input, *self.output, *vocabulary)

    @property
    def key_id(self) -> str:
        """The fingerprint of this key, 32 hexadecimal digits (SPEC.md, "Client key")."""
        lines = ["stip-client-key/1", self.scheme, str(self.hidden_size)]
        lines += [f"{label} {subkey.hex()}" for label, subkey in self.labelled_subkeys().items()]
        text = "".join(line + "\n" for line in lines)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]

    def labelled_subkeys(self) -> dict[str, bytes]:
        """The subkeys by their labels, in the order of `subkeys`."""
        if self.scheme == "rotation":
            labels = [derivation.ROTATION_LABEL]
        else:
            labels = derivation.residual_labels(0, len(self.input))
            labels += derivation.residual_labels(self.output_layer, len(self.output))
        if self.vocabulary is not None:
            labels.append(derivation.VOCABULARY_LABEL)
        return dict(zip(labels, self.subkeys, strict=True))

    def input_mask(self) -> Mask:
        """The mask from embedded rows to the rows that the client sends."""
        if self.scheme == "rotation":
            return Rotation(self.input[0], self.hidden_size)
        return PermutationMask(self._permutation(self.input))

    def output_mask(self) -> Mask:
        """The mask of the final hidden states that come back to a client that holds the head."""
        if self.scheme == "rotation":
            return self.input_mask()
        return PermutationMask(self._permutation(self.output))

    def sealed_order(self, vocab_size: int) -> Indices | None:
        """The order v of sealed logits, `sealed[k] = logits[v[k]]`: int64 [vocab_size], or None."""
        if self.vocabulary is None:
            return None
        return derivation.permutation(self.vocabulary, vocab_size)

    def input_permutation(self) -> Indices:
        """p_0: int64 [hidden_size]. Raises ValueError for a key that rotates."""
        mask = self.input_mask()
        if not isinstance(mask, PermutationMask):
            raise ValueError(f"a key of scheme {self.scheme!r} has no permutation")
        return mask.p

    def _permutation(self, subkeys: tuple[bytes, ...]) -> Indices:
        if not subkeys:
            return np.arange(self.hidden_size)
        size = self.hidden_size // len(subkeys)
        return block_diagonal([derivation.permutation(key, size) for key in subkeys])
