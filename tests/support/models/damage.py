"""Ways in which files go bad, one function each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Tensors = dict[str, NDArray[Any]]


def truncate(path: Path, kept: float = 0.5) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def flip_bit(path: Path) -> None:
    """Alter one bit in the last byte: the size and the format stay right."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON object; None removes one."""
    content = json.loads(path.read_bytes())
    for name, value in changes.items():
        content.pop(name, None)
        if value is not None:
            content[name] = value
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, edit: Callable[[Tensors], object]) -> None:
    """Rewrite a safetensors file after `edit` has changed its tensors in place."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def set_element(path: Path, name: str, value: float) -> None:
    """Set the last element of a tensor."""

    def edit(tensors: Tensors) -> None:
        array = np.array(tensors[name])
        array.reshape(-1)[-1] = value
        tensors[name] = array

    edit_tensors(path, edit)
