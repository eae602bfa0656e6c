"""What is audited: the two bundles of one conversion, and their checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import BundleKind, Head, Manifest, Scheme
from stip_keys.audit.attack import PublicModel, Tokens
from stip_keys.audit.evidence.numpy_decoder import Decoder
from stip_keys.convert.checkpoint import Checkpoint, StoredTensors
from stip_keys.convert.families import architecture
from stip_keys.masks.errors import KeysError
from stip_keys.masks.key_file import read_client_key
from stip_keys.masks.keys import ClientKey
from stip_model.bundle.manifest import check_files, read_manifest
from stip_model.errors import BundleError

# Relative tolerance for norms of hidden states and for logits. A conversion that rounds weights to
# bfloat16 stays well below ROUNDED. One that only moves them stays below MOVED, and a light
# fine-tune is far above it.
ROUNDED, MOVED = 0.02, 0.001


class Subject:
    """The bundles in `folder` (server/ and client/) and their checkpoint.

    Raises BundleError or CheckpointError for what is damaged, and BundleError where the bundles
    have other dimensions or another embedding table than the checkpoint.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.manifest = _read(folder / "server", BundleKind.BUNDLE_KIND_SERVER)
        client = _read(folder / "client", BundleKind.BUNDLE_KIND_CLIENT)
        self.client_key: ClientKey = read_client_key(folder / "client" / "client.key")
        if not self.manifest.bundle_id == client.bundle_id or (
            self.client_key.key_id != self.manifest.key_id
        ):
            raise BundleError(f"{folder}: the server and the client bundle do not belong together")
        self.scheme: Scheme = self.manifest.scheme
        self.head: Head = self.manifest.head
        self.eos_token_ids = list(client.eos_token_ids)
        self._check_dimensions()
        self.bundle: Mapping[str, NDArray[Any]] = StoredTensors.of_folder(folder / "server")
        self.decoder = Decoder(self.manifest.model, self.bundle)
        self.public = public_model(checkpoint)
        self._check_embedding()
        self._tolerance = ROUNDED if self._is_rounded() else MOVED

    def masked_rows(self, conversations: Sequence[Tokens]) -> list[NDArray[np.float16]]:
        """The rows that a client with this bundle sends, one array a conversation."""
        table = self._embedding()
        cuts = np.cumsum([len(tokens) for tokens in conversations])[:-1]
        rows = self.client_key.input_mask().apply(table[np.concatenate(conversations)])
        return np.split(rows.astype(np.float16), cuts)

    def check_weights(self, tokens: Tokens) -> None:
        """Run a conversation through bundle and checkpoint. Raises BundleError where they differ.

        Every mask keeps the norms of hidden states, and the logits except for their order.
        """
        (sent,) = self.masked_rows([tokens])
        plain = self.public.decoder.hidden_states([self.public.embedding[tokens]])
        masked = self.decoder.hidden_states([sent])
        for layer, ((expected,), (found,)) in enumerate(zip(plain, masked, strict=True)):
            norms = np.linalg.norm(expected, axis=1)
            if not self._close(np.linalg.norm(found, axis=1), norms):
                raise self._mismatch(f"layer {layer} has other weights")
        if self.head != Head.HEAD_CLIENT:
            logits = [
                np.sort(decoder.normalised(states) @ decoder.head().T, axis=1)
                for decoder, states in (
                    (self.public.decoder, expected),
                    (self.decoder, found),
                )
            ]
            if not self._close(logits[1], logits[0]):
                raise self._mismatch("the head has other weights")

    def _is_rounded(self) -> bool:
        """Whether converting may have rounded weights, by a rotation or to another type."""
        types = {each.dtype.wire for each in self.checkpoint.tensors.values()}
        return self.scheme == Scheme.SCHEME_ROTATION or types != {self.manifest.dtype}

    def _close(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
        differences = np.median(np.abs(found - expected))
        return bool(differences <= self._tolerance * np.median(np.abs(expected)))

    def _embedding(self) -> NDArray[np.float32]:
        name = architecture(self.manifest.model.model_type).embedding
        return StoredTensors.of_folder(self.folder / "client")[name]

    def _check_dimensions(self) -> None:
        fields = self.manifest.model.DESCRIPTOR.fields
        for name in [field.name for field in fields]:
            found = getattr(self.manifest.model, name)
            expected = getattr(self.checkpoint.config, name)
            if found != expected:
                raise self._mismatch(
                    f"its {name} is {str(found).strip()}, the checkpoint's {str(expected).strip()}"
                )

    def _check_embedding(self) -> None:
        own = self._embedding().astype(np.float16)
        if not np.array_equal(own, self.public.embedding):
            raise self._mismatch("its embedding table is another")

    def _mismatch(self, what: str) -> BundleError:
        return BundleError(
            f"{self.folder} was not made of {self.checkpoint.folder}: {what}",
            hint="--checkpoint takes the checkpoint that the bundles were converted from",
        )


def public_model(checkpoint: Checkpoint) -> PublicModel:
    """The checkpoint as an attacker knows it. Raises KeysError if float16 cannot hold it."""
    tensors = StoredTensors({name: each.file for name, each in checkpoint.tensors.items()})
    return public_model_of(checkpoint.config, tensors)


def public_model_of(config: Any, tensors: Mapping[str, NDArray[Any]]) -> PublicModel:
    """The same from tensors in memory, or from tensors that are read on demand."""
    table = tensors[architecture(config.model_type).embedding]
    with np.errstate(over="ignore"):
        embedding = table.astype(np.float16)
    if not np.isfinite(embedding).all():
        raise KeysError("an embedding does not fit into float16, which the audit's traffic is in")
    return PublicModel(config, Decoder(config, tensors), embedding, tensors)


def _read(folder: Path, kind: BundleKind) -> Manifest:
    manifest = read_manifest(folder, kind)
    check_files(folder, manifest)
    return manifest
