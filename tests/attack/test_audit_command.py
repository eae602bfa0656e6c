"""stip-keys audit: its output, its files and its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import convert, run_tool

MODEL = RandomCheckpoint(num_hidden_layers=2, tie_word_embeddings=False, seed=11)
FAST = ("--attacks", "sorted-values", "--seeds", "2", "--conversations", "3", "--reply-tokens", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    MODEL.write(folder / "checkpoint")
    run_tool("stip_keys", "new", "-o", folder / "master.key")
    convert(folder / "checkpoint", folder / "bundles", "--key", folder / "master.key")
    return folder


def audit(folder: Path, *arguments: object, checkpoint: Path | None = None) -> Any:
    source = checkpoint or folder / "checkpoint"
    return run_tool(
        "stip_keys", "audit", folder / "bundles", "--checkpoint", source, *FAST, *arguments
    )


def assert_refused(done: Any, error: str) -> None:
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith(f"stip-keys: error: {error}"), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def altered(folder: Path, change: Callable[[dict[str, NDArray[Any]]], object]) -> Path:
    """A checkpoint that differs from the bundles' in some weights."""
    other = MODEL.write(folder / "other")
    tensors = load_file(other / "model.safetensors")
    change(tensors)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


def test_it_prints_a_table(folder: Path) -> None:
    done = audit(folder)
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()[2:4]
    assert header.split()[:4] == ["attack", "attacker", "knows", "template"]
    assert row.startswith("sorted values")
    assert done.stderr == ""


def test_json_tells_what_every_seed_found(folder: Path) -> None:
    done = audit(folder, "--json", "--key", folder / "master.key")
    described = json.loads(done.stdout)
    assert described["scheme"] == "permutation" and described["head"] == "server"
    assert described["whole_key"] is True
    (attack,) = described["attacks"]
    assert (attack["name"], attack["attacker"]) == ("sorted values", "wire")
    assert [run["top_1"]["user"] for run in attack["runs"]] == [1.0, 1.0]
    assert attack["wrong_model"]["top_1"]["user"] < 0.1


def test_json_and_a_picture_go_into_files(folder: Path, tmp_path: Path) -> None:
    done = audit(folder, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg")
    assert done.returncode == 0, done.stderr
    assert "sorted values" in done.stdout
    assert json.loads((tmp_path / "a.json").read_text())["attacks"]
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_token_ids_of_a_file_are_sent(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("[1, 2, 3]\n[4, 5, 6]\n[7, 8]\n[9]\n")
    done = audit(folder, "--prompts", tmp_path / "prompts", "--json")
    described = json.loads(done.stdout)
    assert described["conversations"] == 2  # half of the four: the others are the language


def test_without_the_master_key_the_clients_masks_are_compared(folder: Path) -> None:
    attack = ("--attacks", "weight-signatures", "--json")
    (alone,) = json.loads(audit(folder, *attack).stdout)["attacks"]
    assert [run["key"] for run in alone["runs"]] == [1.0, 1.0]


def test_bundles_of_other_dimensions_are_refused(folder: Path, tmp_path: Path) -> None:
    other = replace(MODEL, num_hidden_layers=3).write(tmp_path / "other")
    assert_refused(
        audit(folder, checkpoint=other),
        f"{folder / 'bundles'} was not made of {other}: its num_hidden_layers is 2, "
        "the checkpoint's 3",
    )


def test_another_embedding_table_is_refused(folder: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["model.embed_tokens.weight"][3, 5] += 0.25

    other = altered(tmp_path, change)
    assert_refused(
        audit(folder, checkpoint=other),
        f"{folder / 'bundles'} was not made of {other}: its embedding table is another",
    )


def test_other_weights_of_a_layer_are_refused(folder: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, NDArray[Any]]) -> None:
        rng = np.random.default_rng(0)
        rng.shuffle(tensors["model.layers.1.mlp.down_proj.weight"], axis=1)

    other = altered(tmp_path, change)
    assert_refused(
        audit(folder, checkpoint=other),
        f"{folder / 'bundles'} was not made of {other}: layer 1 has other weights",
    )


def test_a_light_fine_tune_is_another_checkpoint(folder: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, NDArray[Any]]) -> None:
        weight = tensors["model.layers.0.mlp.down_proj.weight"]
        noise = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32)
        weight += 0.03 * weight.std() * noise

    other = altered(tmp_path, change)
    assert_refused(
        audit(folder, checkpoint=other),
        f"{folder / 'bundles'} was not made of {other}: layer 0 has other weights",
    )


@pytest.mark.parametrize("options", [("--dtype", "bfloat16"), ("--scheme", "rotation")])
def test_what_converting_rounds_is_the_same_checkpoint(
    folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    key = ("--key", folder / "master.key")
    convert(folder / "checkpoint", tmp_path / "bundles", *key, *options)
    done = audit(tmp_path, checkpoint=folder / "checkpoint")
    assert done.returncode == 0, done.stderr


def test_another_head_is_refused(folder: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, NDArray[Any]]) -> None:
        tensors["lm_head.weight"] *= 1.2

    other = altered(tmp_path, change)
    assert_refused(
        audit(folder, checkpoint=other),
        f"{folder / 'bundles'} was not made of {other}: the head has other weights",
    )


def test_a_damaged_bundle_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "bundles", tmp_path / "bundles")
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    path = tmp_path / "bundles" / "server" / "layer_01.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert_refused(audit(tmp_path), f"{path} is altered")


def test_bundles_of_two_conversions_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    convert(folder / "checkpoint", tmp_path / "bundles")
    shutil.rmtree(tmp_path / "bundles" / "client")
    shutil.copytree(folder / "bundles" / "client", tmp_path / "bundles" / "client")
    assert_refused(
        audit(tmp_path),
        f"{tmp_path / 'bundles'}: the server and the client bundle do not belong together",
    )


def test_another_master_key_is_refused(folder: Path, tmp_path: Path) -> None:
    run_tool("stip_keys", "new", "-o", tmp_path / "other.key")
    assert_refused(audit(folder, "--key", tmp_path / "other.key"), "the master key ")


def test_scheme_none_takes_no_key(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    convert(folder / "checkpoint", tmp_path / "bundles", "--scheme", "none")
    assert audit(tmp_path).returncode == 0
    assert_refused(
        audit(tmp_path, "--key", folder / "master.key"), "bundles of scheme none have no key"
    )


def test_an_unknown_attack_is_named_with_the_known_ones(folder: Path) -> None:
    done = audit(folder, "--attacks", "sorted-values,guessing")
    assert_refused(done, "no attack is named 'guessing'")
    assert "hint: known: " in done.stderr and "code-book" in done.stderr


def test_what_cannot_be_written_or_read_is_refused(folder: Path, tmp_path: Path) -> None:
    assert_refused(audit(folder, "--plot", tmp_path / "a.pdf"), "--plot")
    assert_refused(audit(folder, "--prompts", tmp_path / "none"), "cannot read")
    assert_refused(audit(folder, "--json", tmp_path / "missing" / "a.json"), "cannot write")
    assert_refused(audit(tmp_path, checkpoint=folder / "checkpoint"), "cannot read")


@pytest.mark.parametrize("option", ["--seeds", "--conversations", "--reply-tokens", "--time-limit"])
@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_counts_are_positive(folder: Path, option: str, value: str) -> None:
    done = audit(folder, option, value)
    assert done.returncode == 2
    assert f"{value!r} is not a positive integer" in done.stderr
