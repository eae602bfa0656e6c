"""Reads a Hugging Face checkpoint: config.json and one or many safetensors files.

Rows are read on demand. A file is mapped only while rows are copied from it, so that a large
checkpoint never fills this process's resident memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families import architecture
from stip_keys.convert.model_config import read_model_config
from stip_keys.masks.derivation import Indices
from stip_model.bundle.weight_types import BY_SAFETENSORS_NAME, WeightType

INDEX = "model.safetensors.index.json"
# Rows are cast in ranges of this size, so that a large tensor is never in memory twice.
RANGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint, still on disk."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: WeightType

    @property
    def row_bytes(self) -> int:
        """Bytes of one row along the first axis."""
        return self.dtype.numpy.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """A copy of rows start..stop of the first axis."""
        with _opened(self.file, "has become unreadable") as file:
            return np.array(file.get_slice(self.name)[start:stop])

    def take(self, indices: Indices) -> NDArray[Any]:
        """A copy of some rows of the first axis, in this order. Reads no other rows."""
        with _opened(self.file, "has become unreadable") as file:
            stored = file.get_slice(self.name)
            return np.concatenate([stored[index : index + 1] for index in indices.tolist()])


class StoredTensors(Mapping[str, NDArray[Any]]):
    """The tensors of some safetensors files, as float32; integers (tau) as they are stored.

    Nothing is kept: each look-up reads the tensor again. Raises CheckpointError for a damaged file.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` holds the file of every tensor, by the tensor's name."""
        self._files = dict(files)

    @classmethod
    def of_folder(cls, folder: Path) -> StoredTensors:
        """Every tensor of every safetensors file in a folder."""
        files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with _opened(path, "is damaged or truncated") as opened:
                files |= dict.fromkeys(opened.keys(), path)
        return cls(files)

    def __getitem__(self, name: str) -> NDArray[Any]:
        path = self._files[name]
        with _opened(path, "has become unreadable") as opened:
            stored = opened.get_slice(name)
            first = stored[:1]
            if np.issubdtype(first.dtype, np.integer):
                return np.array(stored[:])
            tensor = np.empty(stored.get_shape(), np.float32)
            step = max(1, RANGE_BYTES // max(1, first.nbytes))
            for start in range(0, len(tensor), step):
                stop = min(start + step, len(tensor))  # slices do not end early by themselves
                tensor[start:stop] = stored[start:stop]
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Checkpoint:
    """A checkpoint folder.

    `hf_config` is config.json, `config` the dimensions in it, `tensors` every tensor by its name.
    Raises CheckpointError naming the file, field or tensor that is wrong.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
            raise CheckpointError(
                f"{folder} is not a folder",
                hint="SRC is a Hugging Face checkpoint: config.json and *.safetensors",
            )
        self.hf_config = read_json(folder / "config.json")
        self.config: ModelConfig = read_model_config(self.hf_config)
        self.tensors = self._stored_tensors()
        if "tie_word_embeddings" not in self.hf_config:
            head = architecture(self.config.model_type).head
            self.config.tie_word_embeddings = head not in self.tensors

    def eos_token_ids(self) -> list[int]:
        """The tokens that end a reply: those of generation_config.json and of config.json.

        The client adds the eos_token of tokenizer_config.json, which its bundle holds.
        """
        generation = self.folder / "generation_config.json"
        configs = [read_json(generation)] if generation.exists() else []
        found: list[int] = []
        for config in (*configs, self.hf_config):
            ids = config.get("eos_token_id")
            listed = [] if ids is None else ids if isinstance(ids, list) else [ids]
            if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in listed):
                raise CheckpointError(f"eos_token_id is {ids!r}, not token ids")
            found += [each for each in listed if each not in found]
        return found

    def _stored_tensors(self) -> dict[str, StoredTensor]:
        tensors: dict[str, StoredTensor] = {}
        for file in self._shards():
            for stored in read_header(file):
                if stored.name in tensors:
                    raise CheckpointError(
                        f"tensor {stored.name} is in both {tensors[stored.name].file.name} "
                        f"and {file.name}"
                    )
                tensors[stored.name] = stored
        return tensors

    def _shards(self) -> list[Path]:
        index = self.folder / INDEX
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, Mapping):
                raise CheckpointError(f"{INDEX}: no weight_map")
            for name in weight_map.values():
                if not isinstance(name, str) or Path(name).name != name:
                    raise CheckpointError(f"{INDEX}: {name!r} is not a file name")
            names = sorted(set(weight_map.values()))
        else:
            names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if not names:
            raise CheckpointError(
                f"{self.folder} holds no *.safetensors file",
                hint="checkpoints in other formats must be saved as safetensors first",
            )
        for name in names:
            if not (self.folder / name).is_file():
                raise CheckpointError(f"shard {name} is missing from {self.folder}")
        return [self.folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the checkpoint."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing from {path.parent}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is not JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def read_header(file: Path, *, but: str | None = None) -> list[StoredTensor]:
    """The tensors of a safetensors file, except those whose names end with `but`.

    Raises CheckpointError.
    """
    stored = []
    with _opened(file, "is damaged or truncated") as opened:
        for name in sorted(opened.keys()):
            if but is not None and name.endswith(but):
                continue
            header = opened.get_slice(name)
            dtype = BY_SAFETENSORS_NAME.get(header.get_dtype())
            if dtype is None:
                raise CheckpointError(
                    f"tensor {name} in {file.name} is {header.get_dtype()} "
                    f"(supported: {', '.join(BY_SAFETENSORS_NAME)})"
                )
            stored.append(StoredTensor(name, file, tuple(header.get_shape()), dtype))
    return stored


@contextmanager
def _opened(file: Path, problem: str) -> Iterator[Any]:
    """Map a safetensors file. Raises CheckpointError, with `problem`, where reading fails."""
    try:
        with safe_open(file, framework="np") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} {problem}: {error}") from error
