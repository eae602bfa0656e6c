"""The product agrees with the vectors that pin SPEC.md, and they with SPEC.md's plain reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stip_client.tensors import WIRE_TYPES, encode
from stip_keys import derivation
from stip_keys.errors import KeyFileError
from stip_keys.keyfile import read_client_key
from tests.vectors import reference


def load(name: str) -> Any:
    return json.loads((reference.FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("case", load("derivation"), ids=lambda case: case["name"])
def test_derivation(case: dict[str, Any]) -> None:
    key = derivation.subkey(bytes.fromhex(case["master"]), case["label"])
    assert key.hex() == case["subkey"]
    derive = getattr(derivation, case["kind"])
    assert derive(key, case["n"]).tolist() == case["values"]


@pytest.mark.parametrize("case", load("client_keys"), ids=lambda case: case["name"])
def test_client_key_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "client.key"
    path.write_text(json.dumps(case["file"]))
    path.chmod(0o600)
    if case["expect"] == "ok":
        key = read_client_key(path)
        assert key.key_id == case["file"]["key_id"]
        assert key.input_permutation().tolist() == case["p_0"]
    else:
        with pytest.raises(KeyFileError, match=case["expect"]):
            read_client_key(path)


def test_masked_row(tmp_path: Path) -> None:
    vector = load("masked_row")
    (case,) = [each for each in load("client_keys") if each["name"] == vector["client_key"]]
    path = tmp_path / "client.key"
    path.write_text(json.dumps(case["file"]))
    path.chmod(0o600)
    row = np.array([vector["row"]], np.float32)
    masked = row[:, read_client_key(path).input_permutation()]
    assert masked[0].tolist() == vector["masked"]
    for wire in ("float16", "float32"):
        assert encode(masked, WIRE_TYPES[wire]).data.hex() == vector[wire]


def test_the_vectors_are_what_the_reference_makes() -> None:
    assert load("derivation") == reference.derivation_vectors()
    assert load("client_keys") == reference.client_key_vectors()
    assert load("masked_row") == reference.masked_row_vector()
