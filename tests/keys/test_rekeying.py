"""Re-keyed bundles equal, byte for byte, those that a conversion with the new key makes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.converter import Converter, Settings
from stip_keys.convert.rekeying import Rekeying
from stip_keys.convert.signing import SigningKey, sign_bundle
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.modes import HEADS
from stip_model.errors import BundleError, StipError
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.models.random_models import MODELS

OLD, NEW = MasterKey.from_base_seed(1), MasterKey.from_base_seed(2)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def converted(checkpoint: Path, output: Path, settings: Settings) -> Path:
    Converter(Checkpoint(checkpoint), settings).write(output)
    return output


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("model", MODELS)
def test_rekeyed_bundles_equal_those_converted_afresh(
    model: str, head: str, tmp_path: Path
) -> None:
    checkpoint = MODELS[model].write(tmp_path / "checkpoint")
    settings = Settings(key=OLD, head=head, blocks=2)
    old = converted(checkpoint, tmp_path / "old", settings)
    afresh = converted(checkpoint, tmp_path / "afresh", replace(settings, key=NEW))
    Rekeying(old, OLD, NEW).write(tmp_path / "rekeyed")
    Rekeying(tmp_path / "rekeyed", NEW, OLD).write(tmp_path / "back")
    assert files(tmp_path / "rekeyed") == files(afresh)
    assert files(tmp_path / "back") == files(old)
    assert files(afresh).keys() == files(old).keys()
    assert files(afresh) != files(old)


def test_a_bundle_cast_to_another_type_keeps_it(tmp_path: Path) -> None:
    checkpoint = RandomCheckpoint().write(tmp_path / "checkpoint")
    settings = Settings(key=OLD, dtype="bfloat16")
    old = converted(checkpoint, tmp_path / "old", settings)
    afresh = converted(checkpoint, tmp_path / "afresh", replace(settings, key=NEW))
    Rekeying(old, OLD, NEW).write(tmp_path / "rekeyed")
    assert files(tmp_path / "rekeyed") == files(afresh)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    checkpoint = RandomCheckpoint().write(folder / "checkpoint")
    converted(checkpoint, folder / "permutation", Settings(key=OLD))
    converted(checkpoint, folder / "rotation", Settings(key=OLD, scheme="rotation"))
    converted(checkpoint, folder / "none", Settings(scheme="none"))
    return folder


@pytest.mark.parametrize(
    ("name", "says"), [("rotation", "rounded twice"), ("none", "takes no key")]
)
def test_a_scheme_that_cannot_be_moved_on_is_refused(name: str, says: str, bundles: Path) -> None:
    with pytest.raises(StipError, match=says):
        Rekeying(bundles / name, OLD, NEW)


def test_a_key_that_did_not_make_the_bundles_is_refused(bundles: Path) -> None:
    with pytest.raises(BundleError, match="not made with the old master key"):
        Rekeying(bundles / "permutation", NEW, OLD)


@pytest.mark.parametrize("name", ["server/layer_01.safetensors", "client/embeddings.safetensors"])
def test_an_altered_file_is_not_moved_on(name: str, bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "altered"
    for path, content in files(bundles / "permutation").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=r"is altered: its SHA-256"):
        Rekeying(folder, OLD, NEW)


def test_bundles_of_two_conversions_are_refused(bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "server").symlink_to(bundles / "permutation" / "server")
    (folder / "client").symlink_to(bundles / "rotation" / "client")
    with pytest.raises(BundleError, match="different conversions"):
        Rekeying(folder, OLD, NEW)


@pytest.mark.parametrize(
    ("part", "field", "value", "says"),
    [
        ("server", "num_hidden_layers", 2, "contradicts the other"),
        ("both", "num_hidden_layers", 2, "unknown"),
        ("both", "num_hidden_layers", 4, "is missing from the bundle"),
        ("both", "intermediate_size", 96, "its manifest implies"),
        ("both", "vocab_size", 150, "its manifest implies"),
        ("both", "num_key_value_heads", 0, "not those of a model"),
    ],
)
def test_an_altered_manifest_is_not_moved_on(
    part: str, field: str, value: int, says: str, bundles: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(bundles / "permutation", folder)
    for name in ("server", "client") if part == "both" else (part,):
        path = folder / name / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["model"][field] = value
        path.write_text(json.dumps(manifest))
    with pytest.raises(StipError, match=says):
        Rekeying(folder, OLD, NEW)


def test_a_signature_that_does_not_match_is_not_moved_on(bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "signed"
    shutil.copytree(bundles / "permutation", folder)
    for name in ("server", "client"):
        sign_bundle(folder / name, SigningKey(bytes(32)))
    assert Rekeying(folder, OLD, NEW).is_signed
    for name in ("server", "client"):
        path = folder / name / "manifest.json"
        path.write_text(path.read_text().replace("1e-05", "0.5"))
    with pytest.raises(BundleError, match="signature"):
        Rekeying(folder, OLD, NEW)


def test_a_file_elsewhere_is_not_taken(bundles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(bundles / "permutation", folder)
    path = folder / "client" / "manifest.json"
    path.write_text(path.read_text().replace('"embeddings.safetensors"', '"../x.safetensors"'))
    with pytest.raises(BundleError, match="is not the name of a file"):
        Rekeying(folder, OLD, NEW)
