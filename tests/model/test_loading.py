"""Loading a bundle checks each tensor, not only the digests of its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_model.bundle.manifest import ServerBundle
from stip_model.errors import BundleError
from stip_model.loading import load_model
from stip_model.operations.device import open_operations
from tests.support.models.damage import Tensors, edit_json, edit_tensors

TAU = "model.layers.1.tau"
FILE = "layer_01.safetensors"


def twice(tau: NDArray[Any]) -> NDArray[Any]:
    changed = tau.copy()
    changed[0] = changed[1]
    return changed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (twice, "not a permutation"),
        (lambda tau: tau - 1, "not a permutation"),
        (lambda tau: tau.astype(np.int64) + 2**32, "int64, not int32"),
        (lambda tau: (tau + 0.25).astype(np.float32), "float32, not int32"),
    ],
)
def test_a_tau_that_is_no_int32_permutation_is_refused(
    change: Callable[[NDArray[Any]], NDArray[Any]],
    said: str,
    tiny_bundles: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "server"
    shutil.copytree(tiny_bundles / "server", folder)

    def edit(tensors: Tensors) -> None:
        tensors[TAU] = change(tensors[TAU])

    edit_tensors(folder / FILE, edit)
    content = (folder / FILE).read_bytes()
    files = json.loads((folder / "manifest.json").read_bytes())["files"]
    for file in files:
        if file["name"] == FILE:
            file["size"], file["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    edit_json(folder / "manifest.json", files=files)
    operations = open_operations(cpu=True, dtype="float32", bundle_dtype="float32", fused=False)
    with pytest.raises(BundleError, match=f"{TAU} is .*{said}"):
        load_model(ServerBundle(folder), operations)
