"""Writes a server bundle and a client bundle into a folder that appears once both are complete."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format

from stip.v1.manifest_pb2 import BundleFile, Manifest
from stip_keys.convert.new_folder import new_folder
from stip_keys.convert.plan import Plan, PlannedFile
from stip_keys.convert.safetensors_writer import SafetensorsWriter
from stip_keys.convert.signing import SigningKey, sign_bundle
from stip_keys.masks.key_file import write_master_key
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_model.bundle.signature import MANIFEST

# Called with the number of bytes that were just written.
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Bundles:
    """The manifests of the written bundles."""

    server: Manifest
    client: Manifest


class BundleWriter(ABC):
    """A conversion or a re-keying. Subclasses check their sources when they are made.

    `_server` and `_client` are the manifests without what depends on the written files.
    """

    client_key: ClientKey
    _plan: Plan
    _server: Manifest
    _client: Manifest

    @property
    def total_bytes(self) -> int:
        """Bytes of weights that pass through a masking."""
        return sum(each.size for file in self._plan.server_files() for each in file.tensors)

    def write(
        self,
        output: Path,
        *,
        progress: Progress = lambda _: None,
        master_key: MasterKey | None = None,
        base_seed: int | None = None,
        signing_key: SigningKey | None = None,
    ) -> Bundles:
        """Write output/server and output/client.

        Also writes output/master.key for a `master_key`, and signs both bundles with a
        `signing_key`. Everything goes into a temporary folder next to `output`. It is renamed when
        it is complete, and removed when anything fails. Raises BundleError.
        """
        with new_folder(output) as folder:
            if master_key is not None:
                write_master_key(folder / "master.key", master_key, base_seed=base_seed)
            server, client = folder / "server", folder / "client"
            server.mkdir()
            client.mkdir(mode=0o700)
            files = [write_file(server, file, progress) for file in self._plan.server_files()]
            made = Bundles(
                self._write_manifest(server, self._server, files, files),
                self._write_manifest(
                    client, self._client, files, list(self._write_client_files(client, progress))
                ),
            )
            if signing_key is not None:
                sign_bundle(server, signing_key)
                sign_bundle(client, signing_key)
            return made

    @abstractmethod
    def _write_client_files(self, client: Path, progress: Progress, /) -> Iterator[BundleFile]:
        """Write the client bundle's files into a folder, in the manifest's order."""

    def _write_manifest(
        self,
        folder: Path,
        template: Manifest,
        server_files: list[BundleFile],
        own_files: list[BundleFile],
    ) -> Manifest:
        manifest = Manifest()
        manifest.CopyFrom(template)
        manifest.bundle_id = bundle_id(server_files)
        manifest.key_id = self.client_key.key_id
        del manifest.files[:]
        manifest.files.extend(own_files)
        # SPEC.md wants the .proto file's field names
        text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        return manifest


def write_file(folder: Path, file: PlannedFile, progress: Progress) -> BundleFile:
    """Write one file, a range of a tensor at a time. Returns its manifest entry."""
    headers = [(each.name, each.dtype.safetensors, each.shape, each.size) for each in file.tensors]
    if file.tau is not None:
        name, tau = file.tau
        headers.append((name, "I32", tau.shape, 4 * len(tau)))
    writer = SafetensorsWriter(folder / file.name, headers)
    try:
        for tensor in file.tensors:
            for values in tensor.ranges():
                writer.write(values)
                progress(values.nbytes)
        if file.tau is not None:
            writer.write(file.tau[1].astype("<i4"))
        return writer.finish()
    finally:
        writer.close()


def describe_file(path: Path) -> BundleFile:
    """The manifest entry of an existing file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    return BundleFile(name=path.name, size=size, sha256=digest.hexdigest())


def bundle_id(files: Iterable[BundleFile]) -> str:
    """A server bundle's fingerprint: SHA-256 of its sorted "name size sha256" lines."""
    lines = sorted(f"{file.name} {file.size} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
