"""A client bundle: manifest, key, embedding table, head, tokenizer and chat template."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tokenizers import Tokenizer

from stip.v1.manifest_pb2 import BundleKind, Head, Manifest, Scheme
from stip_client.bundle.chat_template import ChatTemplate
from stip_client.bundle.embeddings import EmbeddingTable
from stip_client.bundle.head import ClientHead, open_head
from stip_client.bundle.sealed_vocabulary import SealedVocabulary
from stip_client.bundle.tokenizer_files import (
    TOKENIZER,
    load_tokenizer,
    read_tokenizer_config,
    special_tokens,
)
from stip_client.errors import BundleError, ClientError, CredentialsError, HidesNothingWarning
from stip_keys.masks.derivation import Indices
from stip_keys.masks.key_file import read_client_key
from stip_keys.masks.keys import ClientKey
from stip_model.bundle.manifest import check_file, read_manifest
from stip_model.bundle.modes import head_name, scheme_name
from stip_model.bundle.signature import check_nothing_else, read_public_key
from stip_model.errors import StipError

KEY = "client.key"
EMBEDDINGS = "embeddings.safetensors"
HEAD = "head.safetensors"
# Larger files, the embedding table of a real model, are checked by size only: reading all of it
# would cost seconds at every start. A verify key and `stip-keys inspect` check every digest.
DIGEST_MAX_BYTES = 64 * 1024 * 1024


class ClientBundle:
    """Opens a bundle's folder. Raises BundleError for whatever is missing, damaged or altered.

    `verify_key` names the public key that must have signed the bundle; then every file is
    read and compared, whatever its size. Raises CredentialsError for one that cannot be used.
    """

    def __init__(self, folder: Path, verify_key: Path | None = None) -> None:
        self.folder = folder
        with _raised_as(CredentialsError):
            signer = None if verify_key is None else read_public_key(verify_key)
        with _raised_as(BundleError):
            self.manifest = read_manifest(folder, BundleKind.BUNDLE_KIND_CLIENT, signer)
            _check_files(folder, self.manifest, signed=signer is not None)
            self.key = read_client_key(folder / KEY)
            _check_key(self.key, self.manifest)
            self.embeddings = EmbeddingTable(folder / EMBEDDINGS)
            if self.embeddings.hidden_size != self.key.hidden_size:
                raise BundleError("the embedding table and the key differ in hidden_size")
            self.head: ClientHead | None = None  # None: the server makes the logits
            if self.manifest.head == Head.HEAD_CLIENT:
                self.head = open_head(
                    folder / HEAD,
                    self.embeddings.table,
                    self.manifest.model,
                    self.key.output_mask(),
                )
        self._mask = self.key.input_mask()
        if self.manifest.scheme == Scheme.SCHEME_NONE:
            warnings.warn(
                "scheme none hides nothing: prompts are sent unmasked",
                HidesNothingWarning,
                stacklevel=2,
            )

    @property
    def input_permutation(self) -> Indices | None:
        """p_0, int64 [hidden_size]; None if the scheme is rotation."""
        return None if self.key.scheme == "rotation" else self.key.input_permutation()

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the manifest's, and the eos_token of tokenizer_config.json.

        An eos_token that the tokenizer does not know is ignored: no model generates it.
        """
        ids = set(self.manifest.eos_token_ids)
        text = special_tokens(read_tokenizer_config(self.folder)).get("eos_token")
        if text is not None and (self.folder / TOKENIZER).exists():
            token_id = self.tokenizer.token_to_id(text)
            if token_id is not None:
                ids.add(token_id)
        return frozenset(ids)

    def masked_embeddings(self, token_ids: Sequence[int]) -> NDArray[Any]:
        """The masked embeddings of some tokens, [len(token_ids), hidden_size]."""
        return self._mask.apply(self.embeddings.rows(token_ids))

    @cached_property
    def vocabulary(self) -> SealedVocabulary | None:
        """Restores the order of sealed logits; None if they come in vocabulary order."""
        order = self.key.sealed_order(self.manifest.model.vocab_size)
        return None if order is None else SealedVocabulary(order)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises BundleError if the bundle has none."""
        path = self.folder / TOKENIZER
        if not path.exists():
            raise BundleError(
                f"{self.folder} holds no {TOKENIZER}", hint="give token ids instead of text"
            )
        return load_tokenizer(path)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template; None if the checkpoint had none."""
        return ChatTemplate.from_folder(self.folder)


@contextmanager
def _raised_as(kind: type[ClientError]) -> Iterator[None]:
    """Raise errors in a bundle's or a key's files as errors of this package."""
    try:
        yield
    except StipError as error:
        raise kind(str(error), hint=error.hint) from error


def _check_key(key: ClientKey, manifest: Manifest) -> None:
    if key.key_id != manifest.key_id:
        raise BundleError(f"client.key has key_id {key.key_id}, the manifest {manifest.key_id}")
    scheme, head = scheme_name(manifest.scheme), head_name(manifest.head)
    if key.scheme != scheme:
        raise BundleError(f"client.key is of scheme {key.scheme}, the manifest of scheme {scheme}")
    made = "client" if key.output else "sealed" if key.vocabulary is not None else "server"
    # other keys of a client that has the head are like those of one that has not
    if made != head and not (head == "client" and made == "server" and scheme != "permutation"):
        raise BundleError(f"client.key opens the answers of head {made}, the manifest's is {head}")
    if key.output and key.output_layer != manifest.model.num_hidden_layers:
        raise BundleError(
            f"client.key opens the states after layer {key.output_layer}, the model has "
            f"{manifest.model.num_hidden_layers} layers"
        )


def _check_files(folder: Path, manifest: Manifest, *, signed: bool) -> None:
    needed = {KEY, EMBEDDINGS} | ({HEAD} if manifest.head == Head.HEAD_CLIENT else set())
    listed = {file.name for file in manifest.files}
    if missing := needed - listed:
        raise BundleError(f"{folder}: the manifest does not list {min(missing)}")
    if signed:
        check_nothing_else(folder, listed)
    for file in manifest.files:
        check_file(folder, file, digest=signed or file.size <= DIGEST_MAX_BYTES)
