"""A faulty checkpoint gives an error that names the fault, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import assert_refused, listing
from tests.support.models.damage import edit_json, edit_tensors, set_element, truncate
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import run_tool

# which tensors are in which file: shard k of n holds every n-th tensor, in the order of the layers
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
INDEX = "model.safetensors.index.json"
Damage = Callable[[Path], object]


def config(**changes: Any) -> Damage:
    return lambda folder: edit_json(folder / "config.json", **changes)


def tensors(file: str, edit: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda folder: edit_tensors(folder / file, edit)


def element(file: str, name: str, value: float) -> Damage:
    return lambda folder: set_element(folder / file, name, value)


def write(file: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def drop(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def remove_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def duplicate(folder: Path) -> None:
    (folder / INDEX).unlink()
    shutil.copy(folder / FIRST, folder / "again.safetensors")


DAMAGED: dict[str, tuple[Damage, list[str]]] = {
    "missing shard": (drop(SECOND), [SECOND, "missing"]),
    "truncated shard": (lambda folder: truncate(folder / FIRST), [FIRST, "truncated"]),
    "truncated header": (lambda folder: truncate(folder / FIRST, 0.0001), [FIRST, "truncated"]),
    "empty shard": (write(SECOND, b""), [SECOND, "truncated"]),
    "shard of something else": (write(SECOND, b"PK\3\4" * 99), [SECOND, "damaged"]),
    "no weights": (remove_weights, ["no *.safetensors"]),
    "tensor twice": (duplicate, [EMBEDDING, "again.safetensors", FIRST]),
    "unknown tensor": (
        tensors(FIRST, lambda all_: all_.update({"model.layers.1.extra": np.ones(3, np.float32)})),
        ["model.layers.1.extra", "unknown", "qwen2"],
    ),
    "layer beyond the last": (
        config(num_hidden_layers=2),
        ["model.layers.2.", "unknown"],
    ),
    "missing tensor": (tensors(SECOND, lambda all_: all_.pop(NORM)), [NORM, "missing"]),
    "missing layer": (config(num_hidden_layers=4), ["model.layers.3.", "missing"]),
    "missing head": (config(tie_word_embeddings=False), ["lm_head.weight", "missing"]),
    "wrong shape": (
        tensors(SECOND, lambda all_: all_.update({NORM: np.ones(59, np.float32)})),
        [NORM, "[59]", "[60]"],
    ),
    "vocabulary of another size": (config(vocab_size=2301), [EMBEDDING, "[2300, 60]", "2301"]),
    "integers for weights": (
        tensors(SECOND, lambda all_: all_.update({NORM: np.ones(60, np.int8)})),
        [NORM, "I8", "F32"],
    ),
    "NaN": (element(SECOND, NORM, np.nan), [NORM, "NaN or Inf"]),
    "Inf in the embedding": (element(FIRST, EMBEDDING, -np.inf), [EMBEDDING, "NaN or Inf"]),
    "no config": (drop("config.json"), ["config.json", "missing"]),
    "config is not JSON": (write("config.json", "{"), ["config.json", "not JSON"]),
    "config is not an object": (write("config.json", "[]"), ["config.json", "not a JSON object"]),
    "no model type": (config(model_type=None), ["model_type"]),
    "model type": (config(model_type="mamba"), ["'mamba'", "llama", "qwen2"]),
    "rope type": (config(rope_scaling={"rope_type": "yarn", "factor": 4.0}), ["'yarn'", "llama3"]),
    "rope without factor": (config(rope_scaling={"rope_type": "linear"}), ["factor is None"]),
    "rope of no form": (config(rope_scaling="linear"), ["RoPE"]),
    "quantised": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        ["quantization_config", "quantised"],
    ),
    "quantised by MLX": (config(quantization={"bits": 4}), ["quantization", "quantised"]),
    "activation": (config(hidden_act="gelu"), ["hidden_act", "'gelu'"]),
    "sliding window": (config(use_sliding_window=True), ["use_sliding_window"]),
    "layer types": (config(layer_types=["sliding_attention"]), ["layer_types"]),
    "layer types of no form": (config(layer_types=5), ["layer_types"]),
    "partial rotary": (config(partial_rotary_factor=0.5), ["partial_rotary_factor"]),
    "partial rotary of no form": (config(partial_rotary_factor="x"), ["partial_rotary_factor"]),
    "no heads": (config(num_attention_heads=0), ["num_attention_heads", "0"]),
    "heads that do not group": (config(num_key_value_heads=4), ["num_key_value_heads 4", "6"]),
    "odd head": (config(head_dim=9), ["head_dim 9"]),
    "size as text": (config(hidden_size="60"), ["hidden_size", "'60'"]),
    "negative epsilon": (config(rms_norm_eps=-1e-5), ["rms_norm_eps"]),
    "end token of no form": (
        write("generation_config.json", json.dumps({"eos_token_id": "two"})),
        ["eos_token_id", "'two'"],
    ),
    "index without a map": (write(INDEX, "{}"), [INDEX, "weight_map"]),
    "index of no names": (write(INDEX, json.dumps({"weight_map": {"a": 1}})), [INDEX]),
    "index of lists": (write(INDEX, json.dumps({"weight_map": {"a": ["b"]}})), [INDEX]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_checkpoint_is_refused_by_name_and_nothing_is_written(
    name: str, talking_checkpoint: Path, tmp_path: Path
) -> None:
    damage, says = DAMAGED[name]
    checkpoint = shutil.copytree(talking_checkpoint, tmp_path / "checkpoint")
    damage(checkpoint)
    before = listing(tmp_path)
    done = run_tool("stip_keys", "convert", checkpoint, "-o", tmp_path / "out")
    assert_refused(done, *says)
    assert done.stdout == ""
    assert listing(tmp_path) == before


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = run_tool("stip_keys", "convert", tmp_path / "nowhere", "-o", tmp_path / "out")
    assert_refused(done, "nowhere", "not a folder", hint="config.json")
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--blocks", 7], "7 blocks do not divide hidden_size 60"),
        (["--blocks", 0], "0 blocks do not divide"),
        (["--blocks", -3], "-3 blocks do not divide"),
        (["--blocks", 61], "61 blocks do not divide"),
        (["--blocks", 3, "--scheme", "none"], "scheme none has no blocks"),
    ],
)
def test_a_block_count_that_does_not_fit_is_refused(
    options: list[object], says: str, talking_checkpoint: Path, tmp_path: Path
) -> None:
    done = run_tool("stip_keys", "convert", talking_checkpoint, "-o", tmp_path / "out", *options)
    assert_refused(done, says, hint="--blocks")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("tensor", ["embedding", "layer"])
def test_a_value_that_overflows_float16_is_refused(tensor: str, tmp_path: Path) -> None:
    checkpoint = RandomCheckpoint(dtype="bfloat16").write(tmp_path / "checkpoint")
    name = EMBEDDING if tensor == "embedding" else "model.layers.1.mlp.up_proj.weight"
    set_element(checkpoint / "model.safetensors", name, 70000.0)
    out = tmp_path / "out"
    before = listing(tmp_path)
    done = run_tool("stip_keys", "convert", checkpoint, "-o", out, "--dtype", "float16")
    assert_refused(done, name, "overflows float16")
    assert listing(tmp_path) == before
    done = run_tool("stip_keys", "convert", checkpoint, "-o", out, "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
