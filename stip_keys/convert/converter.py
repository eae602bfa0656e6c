"""Converts a checkpoint to a server bundle and a client bundle, one row range at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Manifest
from stip_keys.convert.bundle_writer import BundleWriter, Progress, describe_file, write_file
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.plan import Plan
from stip_keys.convert.schemes import mask
from stip_keys.masks.key_file import write_client_key
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.manifest import FORMAT_VERSION
from stip_model.bundle.modes import HEADS, SCHEMES

# Copied into the client bundle where the checkpoint has them.
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
    """How to convert. Every scheme but "none" needs a key; `blocks` None is the default."""

    scheme: str = "permutation"
    key: MasterKey | None = None
    blocks: int | None = None
    dtype: str = "auto"
    head: str = "server"


class Converter(BundleWriter):
    """One conversion. All that headers show is checked before anything is written.

    Raises CheckpointError naming an unknown, missing or misshapen tensor, and KeysError for
    settings that contradict each other or the model.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        self._checkpoint = checkpoint
        config, head = checkpoint.config, settings.head
        masking = mask(settings.scheme, config, settings.key, head=head, blocks=settings.blocks)
        self.client_key = masking.client_key
        self._plan = Plan(config, checkpoint.tensors, masking, head=head, dtype=settings.dtype)
        self._plan.check()
        self._server = Manifest(
            format_version=FORMAT_VERSION,
            kind=BundleKind.BUNDLE_KIND_SERVER,
            model=config,
            dtype=self._plan.dtype.wire,
            scheme=SCHEMES[settings.scheme],
            head=HEADS[head],
            residual_blocks=masking.blocks,
        )
        self._client = Manifest()
        self._client.CopyFrom(self._server)
        self._client.kind = BundleKind.BUNDLE_KIND_CLIENT
        self._client.eos_token_ids.extend(checkpoint.eos_token_ids())

    @property
    def total_bytes(self) -> int:
        """Bytes of weights that the two bundles will hold."""
        client = self._plan.client_files()
        return super().total_bytes + sum(each.size for file in client for each in file.tensors)

    def _write_client_files(self, client: Path, progress: Progress) -> Iterator[BundleFile]:
        for file in self._plan.client_files():
            yield write_file(client, file, progress)
        write_client_key(client / "client.key", self.client_key)
        yield describe_file(client / "client.key")
        for each in TOKENIZER_FILES:
            if (self._checkpoint.folder / each).is_file():
                shutil.copyfile(self._checkpoint.folder / each, client / each)
                yield describe_file(client / each)
