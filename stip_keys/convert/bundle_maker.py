"""How two bundles are made: into a folder that appears when all of it is complete and signed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from stip.v1.manifest_pb2 import Manifest
from stip_keys.convert.new_folder import new_folder
from stip_keys.convert.planned_file import SILENT, Progress
from stip_keys.convert.signing import SigningKey, sign_bundles
from stip_keys.masks.key_file import write_master_key
from stip_keys.masks.keys import MasterKey


@dataclass(frozen=True)
class Bundles:
    """The manifests of what was made."""

    server: Manifest
    client: Manifest


class BundleMaker(ABC):
    """Makes a server bundle and a client bundle, from whatever it has checked before."""

    @property
    @abstractmethod
    def total_bytes(self) -> int:
        """Bytes of weights that will be written."""

    def write(
        self,
        output: Path,
        *,
        progress: Progress = SILENT,
        master_key: MasterKey | None = None,
        base_seed: int | None = None,
        signing_key: SigningKey | None = None,
    ) -> Bundles:
        """Write output/server and output/client, and output/master.key where `master_key` is given.

        With a `signing_key` both bundles are signed. Everything is written into a temporary folder
        beside `output`, which is renamed when it is complete and removed when anything fails.
        Raises BundleError.
        """
        with new_folder(output) as folder:
            if master_key is not None:
                write_master_key(folder / "master.key", master_key, base_seed=base_seed)
            made = self._write_bundles(folder, progress)
            if signing_key is not None:
                sign_bundles(folder, signing_key)
            return made

    @abstractmethod
    def _write_bundles(self, folder: Path, progress: Progress) -> Bundles:
        """Write folder/server and folder/client."""
