"""Gives the bundles of one conversion new keys without the checkpoint.

Numbers are moved from where the old key put them to where the new key puts them; none is rounded.
The result equals what converting the checkpoint with the new key makes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from stip.v1.manifest_pb2 import BundleFile, BundleKind
from stip_keys.convert.bundle_writer import BundleWriter, Progress, bundle_id, describe_file
from stip_keys.convert.checkpoint import read_header
from stip_keys.convert.plan import TAU, Plan
from stip_keys.convert.schemes import mask_again
from stip_keys.masks.key_file import write_client_key
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.manifest import check_files, read_manifest
from stip_model.bundle.modes import head_name
from stip_model.bundle.signature import SIGNATURE, check_any_signature
from stip_model.errors import BundleError

CLIENT_KEY = "client.key"


class Rekeying(BundleWriter):
    """New keys for the bundles in one folder, every file of which is checked first.

    Raises BundleError where a file is missing or altered, where the folder does not hold both
    bundles of one conversion, and where the old key has not made them. Raises KeysError for a
    scheme that cannot be re-keyed.
    """

    def __init__(self, folder: Path, old: MasterKey, new: MasterKey) -> None:
        self._folder = folder
        self._server = read_manifest(folder / "server", BundleKind.BUNDLE_KIND_SERVER)
        self._client = read_manifest(folder / "client", BundleKind.BUNDLE_KIND_CLIENT)
        self._check_manifests()
        masking = mask_again(self._server, old)
        if masking.client_key.key_id != self._server.key_id:
            raise BundleError(
                f"{folder} was not made with the old master key: its key_id is "
                f"{self._server.key_id}",
                hint="--key takes the key that convert or the last rekey used",
            )
        masking = masking.rekeyed(mask_again(self._server, new))
        self.client_key = masking.client_key
        for name, manifest in (("server", self._server), ("client", self._client)):
            check_files(folder / name, manifest)
            check_any_signature(folder / name)
        sources = {
            tensor.name: tensor
            for file in self._server.files
            for tensor in read_header(folder / "server" / file.name, but=f".{TAU}")
        }
        self._plan = Plan(self._server.model, sources, masking, head=head_name(self._server.head))
        self._plan.check(converted=True)

    @property
    def is_signed(self) -> bool:
        """Whether the old bundles carry a signature. The new ones will not carry it."""
        return (self._folder / "server" / SIGNATURE).exists()

    def _check_manifests(self) -> None:
        if self._server.bundle_id != self._client.bundle_id:
            raise BundleError(f"{self._folder}: the bundles come from different conversions")
        server, client = self._server, self._client
        if bundle_id(server.files) != server.bundle_id or server.model != client.model:
            raise BundleError(f"{self._folder}: a manifest is altered: it contradicts the other")
        model = server.model
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
            raise BundleError(f"{self._folder}: the manifest's dimensions are not those of a model")

    def _write_client_files(self, client: Path, _: Progress) -> Iterator[BundleFile]:
        for file in self._client.files:
            if file.name == CLIENT_KEY:
                write_client_key(client / CLIENT_KEY, self.client_key)
                yield describe_file(client / CLIENT_KEY)
            else:
                shutil.copyfile(self._folder / "client" / file.name, client / file.name)
                yield file
