"""The product agrees with the vectors that pin SPEC.md, and they with SPEC.md's plain reading."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import InferRequest, InferResponse
from stip_client.bundle.head import ClientHead
from stip_client.bundle.sealed_vocabulary import SealedVocabulary
from stip_client.errors import RequestError
from stip_client.transport.wire_tensors import WIRE_TYPES, LogitsArrays, encode
from stip_keys.convert.signing import SIGNING_FORMAT, SigningKey
from stip_keys.masks import derivation
from stip_keys.masks.errors import KeyFileError, KeysError
from stip_keys.masks.key_file import MASTER_FORMAT, read_client_key, read_secret
from stip_keys.masks.keys import ClientKey
from stip_keys.masks.permutation import PermutationMask
from stip_keys.masks.rotation import Rotation
from stip_model.bundle.signature import check_signature, read_public_key
from stip_model.errors import BundleError
from stip_server.errors import ServiceError
from stip_server.rpc.grpc_status import to_grpc_status
from tests.support.models.random_checkpoint import DTYPES
from tests.support.passphrases import in_file
from tests.vectors import protobuf_bytes, reference, signed_and_wrapped

assert error_details_pb2  # the details of an error are parsed by their type's name
MESSAGES = {
    "stip.v1.InferRequest": InferRequest,
    "stip.v1.InferResponse": InferResponse,
    "google.rpc.Status": status_pb2.Status,
}


def load(name: str) -> Any:
    return json.loads((reference.FOLDER / f"{name}.json").read_text())


def client_key(name: str, folder: Path) -> ClientKey:
    """The good key file of a name."""
    (case,) = [each for each in load("client_keys") if each["name"] == name]
    path = folder / "client.key"
    path.write_text(json.dumps(case["file"]))
    path.chmod(0o600)
    return read_client_key(path)


@pytest.mark.parametrize("case", load("derivation"), ids=lambda case: case["name"])
def test_derivation(case: dict[str, Any]) -> None:
    key = derivation.subkey(bytes.fromhex(case["master"]), case["label"])
    assert key.hex() == case["subkey"]
    derive = getattr(derivation, case["kind"])
    assert derive(key, case["n"]).tolist() == pytest.approx(case["values"], rel=1e-12)


@pytest.mark.parametrize("case", load("client_keys"), ids=lambda case: case["name"])
def test_client_key_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "client.key"
    path.write_text(json.dumps(case["file"]))
    path.chmod(0o600)
    if case["expect"] == "ok":
        key = read_client_key(path)
        assert key.key_id == case["file"]["key_id"]
        if "p_0" in case:
            assert key.input_permutation().tolist() == case["p_0"]
        if "p_5" in case:
            output = key.output_mask()
            assert isinstance(output, PermutationMask) and output.p.tolist() == case["p_5"]
        order = key.sealed_order(19)
        assert (None if order is None else order.tolist()) == case.get("v")
    else:
        with pytest.raises(KeyFileError, match=re.escape(case["why"])):
            read_client_key(path)


def test_masked_row(tmp_path: Path) -> None:
    vector = load("masked_row")
    row = np.array([vector["row"]], np.float32)
    masked = client_key(vector["client_key"], tmp_path).input_mask().apply(row)
    assert masked[0].tolist() == vector["masked"]
    for wire in ("float16", "float32"):
        assert encode(masked, WIRE_TYPES[wire]).data.hex() == vector[wire]


@pytest.mark.parametrize("case", load("conversions"), ids=lambda case: case["name"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversions(case: dict[str, Any], dtype: str) -> None:
    row = np.frombuffer(bytes.fromhex(case["float32"]), "<f4")
    if case[dtype]["expect"] == "ok":
        assert encode(row, WIRE_TYPES[dtype]).data.hex() == case[dtype]["bytes"]
    else:
        with pytest.raises(RequestError):
            encode(row, WIRE_TYPES[dtype])


@pytest.mark.parametrize("case", load("messages"), ids=lambda case: case["name"])
def test_messages(case: dict[str, Any]) -> None:
    made = MESSAGES[case["message"]]
    found = made.FromString(bytes.fromhex(case["bytes"]))
    assert found == json_format.ParseDict(case["json"], made())
    assert found.SerializeToString(deterministic=True).hex() == case["bytes"]


def test_the_server_sends_the_error_of_the_vectors() -> None:
    (case,) = [each for each in load("messages") if each["name"] == "error"]
    error = ServiceError(
        ErrorReason.ERROR_REASON_POSITION_BEYOND_END,
        case["json"]["message"],
        field="step.position",
        retry_after=1.5,
    )
    status = to_grpc_status(error)
    (details,) = [
        value for key, value in status.trailing_metadata if key == "grpc-status-details-bin"
    ]
    assert details.hex() == case["bytes"]


@pytest.mark.parametrize("case", load("signatures"), ids=lambda case: case["name"])
def test_signatures(case: dict[str, Any], tmp_path: Path) -> None:
    public, manifest = tmp_path / "signing.pub", case["manifest"].encode()
    public.write_text(json.dumps(case["public_key"]))
    (tmp_path / "manifest.sig").write_text(json.dumps(case["signature"]))
    key = read_public_key(public)
    assert key.fingerprint == case["fingerprint"]
    if case["expect"] == "ok":
        check_signature(tmp_path, manifest, key)
        made = SigningKey(signed_and_wrapped.SIGNER).sign(manifest)  # Ed25519 draws nothing
        assert made.content() == case["signature"]
    else:
        with pytest.raises(BundleError, match=re.escape(case["why"])):
            check_signature(tmp_path, manifest, key)


def test_signing_keys_are_those_of_rfc_8032() -> None:
    """Section 7.1, test 1."""
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert SigningKey(signed_and_wrapped.SIGNER).public_key.raw.hex() == public


@pytest.mark.parametrize("case", load("wrapped_keys"), ids=lambda case: case["name"])
def test_wrapped_key_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "wrapped.key"
    source = in_file(tmp_path / "words", case["passphrase"].encode())
    path.write_text(json.dumps(case["file"]))
    path.chmod(0o600)
    plain = SIGNING_FORMAT if "signing" in case["file"]["format"] else MASTER_FORMAT
    if case["expect"] == "ok":
        key = read_secret(path, plain, source)
        assert key == (bytes.fromhex(case["key"]), case["file"]["secret"])
    else:
        with pytest.raises(KeysError, match=re.escape(case["why"])):
            read_secret(path, plain, source)


@pytest.mark.parametrize("case", load("rotations"), ids=lambda case: len(case["row"]))
def test_rotations(case: dict[str, Any]) -> None:
    rotation = Rotation(bytes.fromhex(case["subkey"]), len(case["row"]))
    row, rotated = np.array(case["row"], np.float32), np.array(case["rotated"], np.float32)
    assert rotation.apply(row) == pytest.approx(rotated, abs=1e-6)
    assert rotation.undo(rotated) == pytest.approx(row, abs=1e-6)


@pytest.mark.parametrize("case", load("final_states"), ids=lambda case: case["client_key"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_final_hidden_states_to_logits(case: dict[str, Any], stored: str, tmp_path: Path) -> None:
    dtype = DTYPES[stored]  # each of them holds these weights exactly
    mask = client_key(case["client_key"], tmp_path).output_mask()
    head = ClientHead(np.array(case["norm"], dtype), np.array(case["lm_head"], dtype), mask)
    found = head.logits(np.array([case["hidden_states"]], np.float32))
    assert found[0] == pytest.approx(np.array(case["logits"]), abs=1e-6)


def test_a_sealed_row(tmp_path: Path) -> None:
    vector = load("sealed_row")
    order = client_key(vector["client_key"], tmp_path).sealed_order(19)
    assert order is not None
    vocabulary = SealedVocabulary(order)
    sealed = np.array([vector["sealed"]], np.float32)
    assert vocabulary.open(LogitsArrays(sealed)).values[0].tolist() == vector["logits"]
    indices = np.array([vector["sealed_indices"]], np.int32)
    largest = LogitsArrays(np.take(sealed, indices), indices, np.zeros(1, np.float32))
    opened = vocabulary.open(largest)
    assert opened.indices is not None and opened.indices[0].tolist() == vector["tokens"]
    assert opened.values.tolist() == largest.values.tolist()


def test_the_vectors_are_what_the_reference_makes() -> None:
    assert load("derivation") == reference.derivation_vectors()
    assert load("client_keys") == reference.client_key_vectors()
    assert load("masked_row") == reference.masked_row_vector()
    assert load("signatures") == signed_and_wrapped.signature_vectors()
    assert load("wrapped_keys") == signed_and_wrapped.wrapped_key_vectors()
    assert load("rotations") == reference.rotation_vectors()
    assert load("final_states") == reference.final_state_vectors()
    assert load("sealed_row") == reference.sealed_row_vector()
    assert load("conversions") == reference.conversion_vectors()
    assert load("messages") == protobuf_bytes.message_vectors()
