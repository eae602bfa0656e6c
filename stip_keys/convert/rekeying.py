"""Gives the bundles of one conversion new keys, without the checkpoint they were made of.

What one key has moved another moves on: no number is rounded, and the bundles are those that
converting the checkpoint afresh with the new key would make.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from stip.v1.manifest_pb2 import BundleFile, BundleKind, Manifest, ModelConfig, Scheme
from stip_keys.convert.bundle_files import bundle_id, describe_file, write_manifest
from stip_keys.convert.bundle_maker import BundleMaker, Bundles
from stip_keys.convert.checkpoint import read_header
from stip_keys.convert.plan import TAU, Plan
from stip_keys.convert.planned_file import Progress, write_file
from stip_keys.convert.schemes.permutation import PermutationSpaces, RekeyedSpaces
from stip_keys.masks.key_file import write_client_key
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_model.bundle.manifest import check_files, kind_name, read_manifest
from stip_model.bundle.modes import head_name
from stip_model.bundle.signature import SIGNATURE, check_any_signature
from stip_model.errors import BundleError

CLIENT_KEY = "client.key"


class Rekeying(BundleMaker):
    """New keys for the bundles in one folder, every file of which is checked first.

    Raises BundleError where a file is missing or altered, where the folder does not hold both
    bundles of one conversion, where the old key has not made them, and for a scheme that rounds.
    """

    def __init__(self, folder: Path, old: MasterKey, new: MasterKey) -> None:
        self._folder = folder
        self._server = read_manifest(folder / "server", BundleKind.BUNDLE_KIND_SERVER)
        self._client = read_manifest(folder / "client", BundleKind.BUNDLE_KIND_CLIENT)
        self._check_manifests()
        head = head_name(self._server.head)
        config, blocks = self._server.model, max(1, self._server.residual_blocks)

        def client_key(key: MasterKey) -> ClientKey:
            return key.client_key(
                config.hidden_size, blocks, head=head, layers=config.num_hidden_layers
            )

        if client_key(old).key_id != self._server.key_id:
            raise BundleError(
                f"{folder} was not made with the old master key: its key_id is "
                f"{self._server.key_id}",
                hint="--key takes the key that convert or the last rekey used",
            )
        for each in (self._server, self._client):
            check_files(folder / kind_name(each.kind), each)
            check_any_signature(folder / kind_name(each.kind))
        self._client_key = client_key(new)
        sealed = head == "sealed"
        spaces = RekeyedSpaces(
            PermutationSpaces(old, config, blocks, sealed=sealed),
            PermutationSpaces(new, config, blocks, sealed=sealed),
        )
        sources = {
            tensor.name: tensor
            for file in self._server.files
            for tensor in read_header(folder / "server" / file.name, but=f".{TAU}")
        }
        self._plan = Plan(config, sources, spaces, head=head)
        self._plan.check(converted=True)

    @property
    def is_signed(self) -> bool:
        """Whether the bundles carry a signature, which what is made of them will not have."""
        return (self._folder / "server" / SIGNATURE).exists()

    @property
    def total_bytes(self) -> int:
        """Bytes of weights that are moved."""
        return sum(each.size for file in self._plan.server_files() for each in file.tensors)

    def _check_manifests(self) -> None:
        if self._server.bundle_id != self._client.bundle_id:
            raise BundleError(f"{self._folder}: the bundles come from different conversions")
        server, client = self._server, self._client
        if bundle_id(server.files) != server.bundle_id or server.model != client.model:
            raise BundleError(f"{self._folder}: a manifest is altered: it contradicts the other")
        _check_dimensions(self._folder, server.model)
        if self._server.scheme == Scheme.SCHEME_ROTATION:
            raise BundleError(
                f"{self._folder}: scheme rotation rounds its weights: turned again they would be "
                "rounded twice",
                hint="convert the checkpoint afresh with the new key",
            )
        if self._server.scheme != Scheme.SCHEME_PERMUTATION:
            raise BundleError(f"{self._folder}: scheme none has no keys to change")

    def _write_bundles(self, folder: Path, progress: Progress) -> Bundles:
        server, client = folder / "server", folder / "client"
        server.mkdir()
        client.mkdir(mode=0o700)
        files = [write_file(server, file, progress) for file in self._plan.server_files()]
        made = []
        for path, old, its_files in (
            (server, self._server, files),
            (client, self._client, list(self._write_client_files(client))),
        ):
            manifest = Manifest()
            manifest.CopyFrom(old)
            manifest.bundle_id = bundle_id(files)
            manifest.key_id = self._client_key.key_id
            del manifest.files[:]
            manifest.files.extend(its_files)
            write_manifest(path, manifest)
            made.append(manifest)
        return Bundles(*made)

    def _write_client_files(self, client: Path) -> Iterator[BundleFile]:
        for file in self._client.files:
            if file.name == CLIENT_KEY:
                write_client_key(client / CLIENT_KEY, self._client_key)
                yield describe_file(client / CLIENT_KEY)
            else:
                shutil.copyfile(self._folder / "client" / file.name, client / file.name)
                yield file


def _check_dimensions(folder: Path, model: ModelConfig) -> None:
    """Raise BundleError where a manifest's dimensions are none of a decoder."""
    sizes = (
        model.hidden_size,
        model.intermediate_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.num_key_value_heads,
        model.head_dim,
        model.vocab_size,
    )
    if not all(sizes) or model.num_attention_heads % model.num_key_value_heads:
        raise BundleError(f"{folder}: the manifest's dimensions are none of a model")
