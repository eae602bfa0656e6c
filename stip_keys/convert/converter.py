"""Converts a checkpoint to a server bundle and a client bundle, one row range at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Manifest
from stip_keys.convert.bundle_files import bundle_id, describe_file, write_manifest
from stip_keys.convert.bundle_maker import BundleMaker, Bundles
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.plan import Plan
from stip_keys.convert.planned_file import Progress, write_file
from stip_keys.convert.schemes.permutation import (
    PermutationSpaces,
    PlainSpaces,
    Spaces,
    check_blocks,
    default_blocks,
)
from stip_keys.convert.schemes.rotation import RotatedSpaces
from stip_keys.masks.errors import KeysError
from stip_keys.masks.key_file import write_client_key
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_model.bundle.manifest import FORMAT_VERSION
from stip_model.bundle.modes import HEADS, SCHEMES

# What a client needs beside its key and the table, where the checkpoint has it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True)
class Settings:
    """How to convert. `key` None with another scheme than "none" is an error of the caller."""

    scheme: str = "permutation"
    key: MasterKey | None = None
    blocks: int | None = None
    dtype: str = "auto"
    head: str = "server"


class Converter(BundleMaker):
    """One conversion, checked as far as headers allow before anything is written.

    Raises CheckpointError naming an unknown, missing or misshapen tensor, KeysError for a block
    count that does not divide hidden_size and for settings that contradict each other.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._config = checkpoint.config
        self._blocks, spaces, self.client_key = self._keyed()
        self._plan = Plan(
            self._config, checkpoint.tensors, spaces, head=settings.head, dtype=settings.dtype
        )
        self._plan.check()

    @property
    def total_bytes(self) -> int:
        """Bytes of weights that the two bundles will hold."""
        files = [*self._plan.server_files(), *self._plan.client_files()]
        return sum(tensor.size for file in files for tensor in file.tensors)

    def _keyed(self) -> tuple[int, Spaces | RotatedSpaces, ClientKey]:
        """The blocks of the residual stream, the spaces, and what the client gets of the key."""
        config, settings = self._config, self._settings
        scheme, key, sealed = settings.scheme, settings.key, settings.head == "sealed"
        if scheme != "permutation" and settings.blocks is not None:
            raise KeysError(f"scheme {scheme} has no blocks", hint="leave --blocks out")
        if scheme == "none":
            if sealed:
                raise KeysError("scheme none has no key to seal the vocabulary with")
            return 1, PlainSpaces(), ClientKey.identity(config.hidden_size)
        if key is None:
            raise KeysError(f"scheme {scheme!r} without a key")
        if scheme == "rotation":
            client = key.client_key(config.hidden_size, 1, scheme=scheme, head=settings.head)
            return 1, RotatedSpaces(key, config, sealed=sealed), client
        blocks = default_blocks(config) if settings.blocks is None else settings.blocks
        check_blocks(config.hidden_size, blocks)
        layers = config.num_hidden_layers
        client = key.client_key(config.hidden_size, blocks, head=settings.head, layers=layers)
        return blocks, PermutationSpaces(key, config, blocks, sealed=sealed), client

    def _write_bundles(self, folder: Path, progress: Progress) -> Bundles:
        server, client = folder / "server", folder / "client"
        server.mkdir()
        client.mkdir(mode=0o700)
        files = [write_file(server, file, progress) for file in self._plan.server_files()]
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            kind=BundleKind.BUNDLE_KIND_SERVER,
            bundle_id=bundle_id(files),
            model=self._config,
            dtype=self._plan.dtype.wire,
            scheme=SCHEMES[self._settings.scheme],
            head=HEADS[self._settings.head],
            key_id=self.client_key.key_id,
            residual_blocks=self._blocks,
            files=files,
        )
        write_manifest(server, manifest)

        client_manifest = Manifest()
        client_manifest.CopyFrom(manifest)
        client_manifest.kind = BundleKind.BUNDLE_KIND_CLIENT
        client_manifest.eos_token_ids.extend(self._checkpoint.eos_token_ids())
        del client_manifest.files[:]
        client_manifest.files.extend(self._write_client_files(client, progress))
        write_manifest(client, client_manifest)
        return Bundles(manifest, client_manifest)

    def _write_client_files(self, client: Path, progress: Progress) -> Iterator[BundleFile]:
        for file in self._plan.client_files():
            yield write_file(client, file, progress)
        write_client_key(client / "client.key", self.client_key)
        yield describe_file(client / "client.key")
        for each in TOKENIZER_FILES:
            if (self._checkpoint.folder / each).is_file():
                shutil.copyfile(self._checkpoint.folder / each, client / each)
                yield describe_file(client / each)
