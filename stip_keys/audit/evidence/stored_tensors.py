"""A model's tensors by name, read from safetensors files when they are asked for, as float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy, and so to safetensors
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stip_model.errors import BundleError

# Rows are cast in ranges of this size, so that a large tensor is never in memory twice.
RANGE_BYTES = 16 * 1024 * 1024


class StoredTensors(Mapping[str, NDArray[Any]]):
    """The tensors of some safetensors files: float32, integers (tau) as they are stored.

    Nothing is kept: each look-up reads the tensor again. Raises BundleError for a damaged file.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` tells for every tensor's name the file that holds it."""
        self._files = dict(files)

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> StoredTensors:
        """Every tensor of some files."""
        files: dict[str, Path] = {}
        for path in paths:
            with _opened(path) as opened:
                files |= dict.fromkeys(opened.keys(), path)
        return cls(files)

    @classmethod
    def of_folder(cls, folder: Path) -> StoredTensors:
        """Every tensor of every safetensors file in a folder."""
        return cls.of_files(sorted(folder.glob("*.safetensors")))

    def __getitem__(self, name: str) -> NDArray[Any]:
        with _opened(self._files[name]) as opened:
            stored = opened.get_slice(name)
            shape = tuple(stored.get_shape())
            first = stored[:1]
            if np.issubdtype(first.dtype, np.integer):
                return np.array(stored[:])
            tensor = np.empty(shape, np.float32)
            step = max(1, RANGE_BYTES // max(1, first.nbytes))
            for start in range(0, shape[0], step):
                stop = min(start + step, shape[0])  # slices do not end early by themselves
                tensor[start:stop] = stored[start:stop]
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is damaged or truncated: {error}") from error
