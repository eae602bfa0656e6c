"""Writes the planned files of a bundle, telling how far it has come."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from stip.v1.manifest_pb2 import BundleFile
from stip_keys.convert.bundle_files import SafetensorsWriter
from stip_keys.convert.plan import PlannedFile


class Progress(Protocol):
    """What tqdm offers: told how many bytes have been written."""

    def update(self, n: int) -> object: ...


class _Silent:
    def update(self, n: int) -> None:
        pass


SILENT = _Silent()


def write_file(folder: Path, file: PlannedFile, progress: Progress = SILENT) -> BundleFile:
    """Write one file, a piece of a tensor at a time; its manifest entry."""
    headers = [(each.name, each.dtype.safetensors, each.shape, each.size) for each in file.tensors]
    if file.tau is not None:
        name, tau = file.tau
        headers.append((name, "I32", tau.shape, 4 * len(tau)))
    writer = SafetensorsWriter(folder / file.name, headers)
    try:
        for tensor in file.tensors:
            for values in tensor.ranges():
                writer.write(values)
                progress.update(values.nbytes)
        if file.tau is not None:
            writer.write(file.tau[1].astype("<i4"))
        return writer.finish()
    finally:
        writer.close()
