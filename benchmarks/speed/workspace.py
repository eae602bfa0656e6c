"""The folders of one run: checkpoints kept for the next run, conversions made afresh for this."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from benchmarks.speed.models import StreamedCheckpoint
from benchmarks.speed.scenarios.conversion import BigConversion
from tests.support.parties import convert


class Workspace:
    """OUT/cache stays; everything else that a run writes is removed at its end."""

    def __init__(self, out: Path) -> None:
        self._cache = out / "cache"
        self._out = out
        self._bundles: dict[tuple[Path, tuple[str, ...]], Path] = {}

    def __enter__(self) -> Workspace:
        self._temporary = tempfile.TemporaryDirectory(prefix="run-", dir=self._out)
        self._folder = Path(self._temporary.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def checkpoint(self, name: str, model: StreamedCheckpoint) -> Path:
        """The model's checkpoint, written unless an earlier run wrote the same one."""
        folder = self._cache / name
        if folder.exists():
            if json.loads((folder / "config.json").read_text()) == model.config:
                return folder
            shutil.rmtree(folder)
        self._cache.mkdir(exist_ok=True)
        # renamed when complete
        return model.write(self._folder / f"{name}-checkpoint").rename(folder)

    def bundles(self, checkpoint: Path, *options: str) -> Path:
        """A conversion of a checkpoint, made once a run: it holds server/ and client/."""
        if (checkpoint, options) not in self._bundles:
            output = self._folder / f"bundles-{len(self._bundles)}"
            self._bundles[checkpoint, options] = convert(checkpoint, output, *options)
        return self._bundles[checkpoint, options]

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty folder, gone afterwards: what is measured several times must not add up."""
        folder = self._folder / name
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)

    @cached_property
    def big_conversion(self) -> BigConversion:
        """The measured conversion of the 3B checkpoint, made once a run. Raises NoSpace."""
        return BigConversion.run(self._folder)
