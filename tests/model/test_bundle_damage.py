"""Bundles that are damaged, mixed up or of another conversion: refused before any answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stip_client import BundleError, Client, WrongKeyError
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.command_line import assert_refused
from tests.support.fixtures.talking_model import write_talking_checkpoint
from tests.support.models.damage import Tensors, edit_json, edit_tensors, flip_bit, truncate
from tests.support.models.random_models import MODELS
from tests.support.parties import Server, convert, make_model, run_tool

Damage = Callable[[Path], object]
LAYER, HEAD = "layer_01.safetensors", "non_layer_part_00.safetensors"
MANIFEST = "manifest.json"


def in_manifest(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / MANIFEST, **changes)


def in_model(**changes: Any) -> Damage:
    """Edit the manifest's model."""

    def damage(folder: Path) -> None:
        path = folder / MANIFEST
        content = path.read_text()
        for name, value in changes.items():
            before, _, after = content.partition(f'"{name}": ')
            content = f'{before}"{name}": {value}{after[after.index(",") :]}'
        path.write_text(content)

    return damage


SERVER_DAMAGE: dict[str, tuple[Damage, list[str]]] = {
    "missing shard": (lambda b: (b / LAYER).unlink(), [LAYER, "missing"]),
    "missing head": (lambda b: (b / HEAD).unlink(), [HEAD, "missing"]),
    "truncated shard": (lambda b: truncate(b / LAYER), [LAYER, "bytes", "truncated"]),
    "truncated by a byte": (lambda b: truncate(b / HEAD, 0.99999), [HEAD, "truncated"]),
    "altered shard": (lambda b: flip_bit(b / LAYER), [LAYER, "altered", "SHA-256"]),
    "altered head": (lambda b: flip_bit(b / HEAD), [HEAD, "altered", "SHA-256"]),
    "shards exchanged": (
        lambda b: shutil.copy(b / "layer_00.safetensors", b / LAYER),
        [LAYER, "altered"],
    ),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), [MANIFEST, "No such file"]),
    "truncated manifest": (lambda b: truncate(b / MANIFEST), [MANIFEST, "not a manifest"]),
    "empty manifest": (lambda b: (b / MANIFEST).write_text(""), [MANIFEST]),
    "binary manifest": (lambda b: (b / MANIFEST).write_bytes(b"\xff\xfe\0"), [MANIFEST]),
    "newer format": (in_manifest(format_version=2), ["format_version 2"]),
    "endless nesting": (lambda b: (b / MANIFEST).write_text("[" * 100_000), [MANIFEST]),
    "unknown field": (in_manifest(colour="red"), ["colour"]),
    "no files": (in_manifest(files=[]), ["tensor", "missing"]),
    "file outside the folder": (
        in_manifest(files=[{"name": "../client/client.key", "size": "1", "sha256": "00"}]),
        ["client.key"],
    ),
    "fewer layers": (in_model(num_hidden_layers=2), ["model.layers.2.", "unknown"]),
    "more layers": (in_model(num_hidden_layers=4), ["model.layers.3.", "missing"]),
    "another width": (in_model(hidden_size=64), ["shape", "64"]),
    "no model": (in_manifest(model=None), ["tensor"]),
    "no heads": (in_model(num_attention_heads=0), ["shape", "manifest"]),
    "another rope": (in_model(rope_type='"yarn"'), ["rope_type", "'yarn'"]),
    "no scheme": (in_manifest(scheme=None), ["scheme"]),
    "later scheme": (in_manifest(scheme="SCHEME_LATTICE"), ["SCHEME_LATTICE", "rotation"]),
    "scheme of a later number": (in_manifest(scheme=9), ["scheme 9", "rotation"]),
    "later head": (in_manifest(head="HEAD_NOWHERE"), ["HEAD_NOWHERE", "sealed"]),
    "head of a later number": (in_manifest(head=9), ["head 9", "sealed"]),
    "head at the client": (in_manifest(head="HEAD_CLIENT"), ["model.norm.weight", "unknown"]),
    "another scheme": (in_manifest(scheme="SCHEME_ROTATION"), ["tau", "unknown"]),
    "no dtype": (in_manifest(dtype=None), ["dtype"]),
}


def start_server(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Try to start a server. One that does start is a failure, and is killed."""
    command = [sys.executable, "-m", "stip_server", "--model", str(bundle), "--port", "0", "--cpu"]
    command += map(str, arguments)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        announced = process.stdout.readline()
        if announced:
            process.kill()
        stderr = process.communicate()[1]
    assert announced == "", stderr
    return subprocess.CompletedProcess(command, process.returncode, announced, stderr)


def generate(server: str, bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_tool(
        *("stip_client", "generate", "--server", server, "--bundle", bundle),
        *("--prompt", "w5 w6", "--max-new-tokens", 3, *arguments),
    )


@pytest.mark.parametrize("name", SERVER_DAMAGE)
def test_a_server_does_not_start_with_a_bad_bundle(
    name: str, talking_bundles: Path, tmp_path: Path
) -> None:
    damage, says = SERVER_DAMAGE[name]
    bundle = shutil.copytree(talking_bundles / "server", tmp_path / "server")
    damage(bundle)
    assert_refused(start_server(bundle), *says)


CLIENT_DAMAGE: dict[str, tuple[Damage, list[str]]] = {
    "missing key": (lambda b: (b / "client.key").unlink(), ["client.key", "missing"]),
    "altered key": (lambda b: flip_bit(b / "client.key"), ["client.key", "altered"]),
    "truncated key": (lambda b: truncate(b / "client.key"), ["client.key", "truncated"]),
    "missing table": (
        lambda b: (b / "embeddings.safetensors").unlink(),
        ["embeddings.safetensors", "missing"],
    ),
    "altered table": (
        lambda b: flip_bit(b / "embeddings.safetensors"),
        ["embeddings.safetensors", "altered"],
    ),
    "truncated table": (
        lambda b: truncate(b / "embeddings.safetensors"),
        ["embeddings.safetensors", "truncated"],
    ),
    "altered tokenizer": (lambda b: flip_bit(b / "tokenizer.json"), ["tokenizer.json", "altered"]),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), [MANIFEST, "No such file"]),
    "truncated manifest": (lambda b: truncate(b / MANIFEST), [MANIFEST, "not a manifest"]),
    "newer format": (in_manifest(format_version=2), ["format_version 2"]),
    "key of another bundle": (in_manifest(key_id="0" * 32), ["client.key", "key_id"]),
    "no files": (in_manifest(files=[]), ["client.key"]),
    "later scheme": (in_manifest(scheme="SCHEME_LATTICE"), ["SCHEME_LATTICE", "rotation"]),
    "scheme of a later number": (in_manifest(scheme=9), ["scheme 9", "rotation"]),
    "no scheme": (in_manifest(scheme=None), ["scheme 0", "rotation"]),
    "later head": (in_manifest(head="HEAD_NOWHERE"), ["HEAD_NOWHERE", "sealed"]),
    "head of a later number": (in_manifest(head=9), ["head 9", "sealed"]),
    "scheme of another key": (
        in_manifest(scheme="SCHEME_ROTATION"),
        ["client.key", "permutation", "rotation"],
    ),
    "key that opens nothing": (in_manifest(head="HEAD_SEALED"), ["client.key", "sealed"]),
    "no head": (in_manifest(head="HEAD_CLIENT"), ["does not list head.safetensors"]),
}


@pytest.mark.parametrize("name", CLIENT_DAMAGE)
def test_a_client_does_not_start_with_a_bad_bundle(
    name: str, talking_bundles: Path, strict_server: Server, tmp_path: Path
) -> None:
    damage, says = CLIENT_DAMAGE[name]
    bundle = shutil.copytree(talking_bundles / "client", tmp_path / "client")
    damage(bundle)
    done = generate(strict_server.address, bundle)
    assert_refused(done, *says)
    assert done.stdout == ""


@pytest.fixture(scope="module")
def own_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client bundle of scheme rotation with the head in it."""
    folder, model = tmp_path_factory.mktemp("head"), MODELS["qwen2-untied-bfloat16-shards"]
    options = ("--scheme", "rotation", "--head", "client", "--base-seed", 1)
    return make_model(folder, model, *options) / "client"


def transpose(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"].T)


OWN_HEAD = "head.safetensors"
HEAD_DAMAGE: dict[str, tuple[Damage, str]] = {
    "altered": (flip_bit, "altered"),
    "another shape": (
        lambda path: edit_tensors(path, transpose),
        r"lm_head.weight is \[60, 151\], not \[151, 60\]",
    ),
    "no norm": (
        lambda path: edit_tensors(path, lambda t: t.pop("model.norm.weight")),
        "model.norm.weight is none",
    ),
    "a type that no weight has": (
        lambda path: edit_tensors(path, lambda t: t.update(more=np.zeros(2, np.int32))),
        "not a safetensors file of weights",
    ),
    "a header that is none": (lambda path: path.write_bytes(b"\4" + bytes(7) + b"true"), "weights"),
    "a header that is all": (lambda path: path.write_bytes(b"\xff" * 80), "a header of"),
    "an axis that is any": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"[151,60]", b"[151,-1]")),
        "data_offsets",
    ),
    "data that is missing": (lambda path: truncate(path, 0.9), "data_offsets"),
}


@pytest.mark.parametrize("name", HEAD_DAMAGE)
def test_a_client_does_not_start_with_a_bad_head(name: str, own_head: Path, tmp_path: Path) -> None:
    damage, says = HEAD_DAMAGE[name]
    bundle = shutil.copytree(own_head, tmp_path / "client")
    ClientBundle(bundle)
    damage(bundle / OWN_HEAD)
    if name != "altered":  # as if it had been converted so
        manifest = json.loads((bundle / MANIFEST).read_bytes())
        content = (bundle / OWN_HEAD).read_bytes()
        for file in manifest["files"]:
            if file["name"] == OWN_HEAD:
                file |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=says):
        ClientBundle(bundle)


def test_a_rotation_is_told_from_a_head_at_the_client_by_the_manifest_alone(
    own_head: Path, tmp_path: Path
) -> None:
    """Their keys are the same: what is not needed is not read."""
    bundle = shutil.copytree(own_head, tmp_path / "client")
    edit_json(bundle / MANIFEST, head="HEAD_SERVER")
    assert ClientBundle(own_head).head is not None
    assert ClientBundle(bundle).head is None


def test_the_bundles_are_not_to_be_mixed_up(talking_bundles: Path, strict_server: Server) -> None:
    done = start_server(talking_bundles / "client")
    assert_refused(done, "not a server bundle", hint="OUT/server")
    done = generate(strict_server.address, talking_bundles / "server")
    assert_refused(done, "not a client bundle", hint="OUT/client")
    done = start_server(talking_bundles)
    assert_refused(done, MANIFEST, hint="server folder")
    done = generate(strict_server.address, talking_bundles)
    assert_refused(done, MANIFEST, hint="client folder")


@pytest.mark.parametrize("what", ["another key", "another conversion with the same key"])
def test_a_wrong_key_is_refused_at_open(
    what: str, talking_checkpoint: Path, strict_server: Server, tmp_path: Path
) -> None:
    if what == "another key":
        other = convert(talking_checkpoint, tmp_path / "other", "--base-seed", 8)
        reason, says = "WRONG_KEY", "key_id"
    else:
        checkpoint = write_talking_checkpoint(tmp_path / "checkpoint", seed=5)
        other = convert(checkpoint, tmp_path / "other")
        reason, says = "WRONG_BUNDLE", "different conversions"
    with (
        Client(strict_server.address, other / "client") as client,
        pytest.raises(WrongKeyError, match=says) as caught,
    ):
        client.session()
    assert caught.value.reason == reason
    done = generate(strict_server.address, other / "client")
    assert_refused(done, says, hint="converted together")
    assert done.stdout == ""
