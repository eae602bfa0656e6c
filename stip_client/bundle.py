"""A client bundle: manifest, key, embedding table, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stip.v1.manifest_pb2 import BundleKind, Manifest, Scheme
from stip_client.chat_template import ChatTemplate
from stip_client.embeddings import EmbeddingTable
from stip_client.errors import BundleError, HidesNothingWarning
from stip_keys.derivation import Indices
from stip_keys.errors import KeyFileError
from stip_keys.keyfile import read_client_key

FORMAT_VERSION = 1
KEY = "client.key"
EMBEDDINGS = "embeddings.safetensors"
# Larger files, the embedding table of a real model, are checked by size only: reading all of it
# would cost seconds at every start. `stip-keys inspect` checks every digest.
DIGEST_MAX_BYTES = 64 * 1024 * 1024


class ClientBundle:
    """Opens a bundle's folder. Raises BundleError for whatever is missing, damaged or altered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder / "manifest.json")
        if self.manifest.kind != BundleKind.BUNDLE_KIND_CLIENT:
            raise BundleError(
                f"{folder} is not a client bundle", hint="the client takes OUT/client"
            )
        _check_files(folder, self.manifest)
        try:
            key = read_client_key(folder / KEY)
        except KeyFileError as error:
            raise BundleError(str(error), hint=error.hint) from error
        if key.key_id != self.manifest.key_id:
            raise BundleError(
                f"client.key has key_id {key.key_id}, the manifest {self.manifest.key_id}"
            )
        self.embeddings = EmbeddingTable(folder / EMBEDDINGS)
        self.key = key
        self._mask = key.input_mask()
        if self.embeddings.hidden_size != key.hidden_size:
            raise BundleError("the embedding table and the key differ in hidden_size")
        if self.manifest.scheme == Scheme.SCHEME_NONE:
            warnings.warn(
                "scheme none hides nothing: prompts are sent unmasked",
                HidesNothingWarning,
                stacklevel=2,
            )

    @property
    def input_permutation(self) -> Indices | None:
        """p_0, int64 [hidden_size]; None where the scheme is not one of permutations."""
        return None if self.key.scheme == "rotation" else self.key.input_permutation()

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        return frozenset(self.manifest.eos_token_ids)

    def masked_embeddings(self, token_ids: Sequence[int]) -> NDArray[Any]:
        """The masked embeddings of some tokens, [len(token_ids), hidden_size]."""
        return self._mask.apply(self.embeddings.rows(token_ids))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises BundleError when the checkpoint had none."""
        path = self.folder / "tokenizer.json"
        if not path.exists():
            raise BundleError(
                f"{self.folder} holds no tokenizer.json", hint="give token ids instead of text"
            )
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:
            raise BundleError(f"{path} is not a tokenizer: {error}") from error

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template, where the checkpoint had one."""
        return ChatTemplate.from_folder(self.folder)


def _read_manifest(path: Path) -> Manifest:
    try:
        manifest = json_format.Parse(path.read_bytes(), Manifest())
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}",
            hint="--bundle takes the client folder that stip-keys convert wrote",
        ) from error
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a manifest: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {manifest.format_version} is not supported "
            f"(known: {FORMAT_VERSION})"
        )
    return manifest


def _check_files(folder: Path, manifest: Manifest) -> None:
    if missing := {KEY, EMBEDDINGS} - {file.name for file in manifest.files}:
        raise BundleError(f"{folder}: the manifest does not list {min(missing)}")
    for expected in manifest.files:
        path = folder / expected.name
        try:
            size = path.stat().st_size
            if size != expected.size:
                raise BundleError(
                    f"{path} has {size} bytes, the manifest says {expected.size}: truncated?"
                )
            if size <= DIGEST_MAX_BYTES:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest != expected.sha256:
                    raise BundleError(f"{path} is altered: its SHA-256 differs from the manifest's")
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}") from error
