"""A client bundle: manifest, key, embedding table, head, tokenizer and chat template."""

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
from stip_client.errors import BundleError, CredentialsError, HidesNothingWarning
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeyFileError, KeysError
from stip_keys.masks.key_file import read_client_key
from stip_keys.masks.keys import ClientKey
from stip_model.bundle.signature import (
    PublicKey,
    check_nothing_else,
    check_signature,
    read_public_key,
)

FORMAT_VERSION = 1
KEY = "client.key"
EMBEDDINGS = "embeddings.safetensors"
HEAD = "head.safetensors"
SCHEMES = {
    Scheme.SCHEME_NONE: "none",
    Scheme.SCHEME_PERMUTATION: "permutation",
    Scheme.SCHEME_ROTATION: "rotation",
}
HEADS = {Head.HEAD_SERVER: "server", Head.HEAD_CLIENT: "client", Head.HEAD_SEALED: "sealed"}
KNOWN = f"known schemes: {', '.join(SCHEMES.values())}; known heads: {', '.join(HEADS.values())}"
# Larger files, the embedding table of a real model, are checked by size only: reading all of it
# would cost seconds at every start. A verify key and `stip-keys inspect` check every digest.
DIGEST_MAX_BYTES = 64 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024


def head_name(head: int) -> str:
    """Where a server says that logits are made, in a word; of a newer server perhaps unknown."""
    known = {int(each): name for each, name in HEADS.items()}
    return known.get(head or Head.HEAD_SERVER, f"unknown ({head})")


class ClientBundle:
    """Opens a bundle's folder. Raises BundleError for whatever is missing, damaged or altered.

    `verify_key` names the public key of whoever must have signed the bundle; then every file is
    read and compared, whatever its size. Raises CredentialsError for one that cannot be used.
    """

    def __init__(self, folder: Path, verify_key: Path | None = None) -> None:
        self.folder = folder
        signer = None if verify_key is None else _read_verify_key(verify_key)
        self.manifest = _read_manifest(folder / "manifest.json", signer)
        if self.manifest.kind != BundleKind.BUNDLE_KIND_CLIENT:
            raise BundleError(
                f"{folder} is not a client bundle", hint="the client takes OUT/client"
            )
        _check_files(folder, self.manifest, signed=signer is not None)
        try:
            key = read_client_key(folder / KEY)
        except KeyFileError as error:
            raise BundleError(str(error), hint=error.hint) from error
        if key.key_id != self.manifest.key_id:
            raise BundleError(
                f"client.key has key_id {key.key_id}, the manifest {self.manifest.key_id}"
            )
        _check_key_kind(key, self.manifest)
        self.embeddings = EmbeddingTable(folder / EMBEDDINGS)
        self.key = key
        self._mask = key.input_mask()
        if self.embeddings.hidden_size != key.hidden_size:
            raise BundleError("the embedding table and the key differ in hidden_size")
        self.head = self._open_head()
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
        """What opens answers in sealed order; None where they come in vocabulary order."""
        order = self.key.sealed_order(self.manifest.model.vocab_size)
        return None if order is None else SealedVocabulary(order)

    def _open_head(self) -> ClientHead | None:
        """What makes logits of final hidden states; None where the server makes them."""
        if self.manifest.head != Head.HEAD_CLIENT:
            return None
        model, mask = self.manifest.model, self.key.output_mask()
        return open_head(self.folder / HEAD, self.embeddings.table, model, mask)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises BundleError when the checkpoint had none."""
        path = self.folder / TOKENIZER
        if not path.exists():
            raise BundleError(
                f"{self.folder} holds no {TOKENIZER}", hint="give token ids instead of text"
            )
        return load_tokenizer(path)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template, where the checkpoint had one."""
        return ChatTemplate.from_folder(self.folder)


def _read_verify_key(path: Path) -> PublicKey:
    try:
        return read_public_key(path)
    except KeyFileError as error:
        raise CredentialsError(str(error), hint=error.hint) from error


def _read_manifest(path: Path, signer: PublicKey | None) -> Manifest:
    try:
        content = path.read_bytes()
        if signer is not None:
            check_signature(path.parent, content, signer)
        manifest = json_format.Parse(content, Manifest())
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}",
            hint="--bundle takes the client folder that stip-keys convert wrote",
        ) from error
    except KeysError as error:
        raise BundleError(str(error), hint=error.hint) from error
    except (json_format.ParseError, UnicodeDecodeError) as error:
        known = f" ({KNOWN})" if "enum" in str(error) else ""
        raise BundleError(f"{path} is not a manifest: {error}{known}") from error
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format_version {manifest.format_version} is not supported "
            f"(known: {FORMAT_VERSION})"
        )
    manifest.head = manifest.head or Head.HEAD_SERVER
    if manifest.scheme not in SCHEMES or manifest.head not in HEADS:
        raise BundleError(
            f"{path}: scheme {manifest.scheme} with head {manifest.head} is not known ({KNOWN})"
        )
    return manifest


def _check_key_kind(key: ClientKey, manifest: Manifest) -> None:
    scheme, head = SCHEMES[manifest.scheme], HEADS[manifest.head]
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
        try:
            check_nothing_else(folder, listed)
        except KeysError as error:
            raise BundleError(str(error), hint=error.hint) from error
    for expected in manifest.files:
        if Path(expected.name).name != expected.name:
            raise BundleError(f"{folder}: {expected.name!r} is not the name of a file in it")
        path = folder / expected.name
        try:
            size = path.stat().st_size
            if size != expected.size:
                raise BundleError(
                    f"{path} has {size} bytes, the manifest says {expected.size}: truncated?"
                )
            if (signed or size <= DIGEST_MAX_BYTES) and _sha256(path) != expected.sha256:
                raise BundleError(f"{path} is altered: its SHA-256 differs from the manifest's")
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
