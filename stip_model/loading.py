"""Loads a server bundle into a Model. Runs on the engine's thread, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import mlx.core as mx

from stip.v1.manifest_pb2 import Head, Manifest, Scheme
from stip.v1.tensor_pb2 import DataType
from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Model, TransformerBlock
from stip_model.errors import BundleError
from stip_model.operations.operations import PLAIN, Operations
from stip_model.operations.products import padded

DTYPES = {
    DataType.DATA_TYPE_FLOAT16: mx.float16,
    DataType.DATA_TYPE_BFLOAT16: mx.bfloat16,
    DataType.DATA_TYPE_FLOAT32: mx.float32,
}
WIRE_DTYPES = {str(dtype).removeprefix("mlx.core."): wire for wire, dtype in DTYPES.items()}
LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)")


def compute_dtype(requested: str, bundle: DataType, *, on_cpu: bool) -> mx.Dtype:
    """The type to compute in: "auto" is the bundle's on a GPU and float32 on a CPU, where MLX's
    half-precision kernels are many times slower."""
    if requested != "auto":
        dtype: mx.Dtype = getattr(mx, requested)
        return dtype
    return mx.float32 if on_cpu else DTYPES[bundle]


def wire_dtype(name: str) -> DataType:
    """The protocol's name of a type that the engine computes in."""
    return WIRE_DTYPES[name]


def load_model(bundle: ServerBundle, dtype: mx.Dtype, operations: Operations = PLAIN) -> Model:
    """Check every file, then load it, cast to dtype. Raises BundleError naming what is wrong."""
    config = bundle.manifest.model
    expected = _expected_shapes(bundle.manifest)
    layers: dict[int, TransformerBlock] = {}
    pending: dict[int, dict[str, mx.array]] = {}
    others: dict[str, mx.array] = {}
    for path in bundle.checked_files():
        try:
            tensors = cast(dict[str, mx.array], mx.load(str(path)))
        except RuntimeError as error:
            raise BundleError(f"{path} is not a safetensors file: {error}") from error
        for name, array in tensors.items():
            _check_tensor(name, array, expected)
            weight = array if name.endswith(".tau") else array.astype(dtype)
            if match := LAYER_NAME.fullmatch(name):
                pending.setdefault(int(match[1]), {})[match[2]] = weight
            else:
                others[name] = weight
        del tensors
        for layer in [layer for layer in pending if _is_complete(layer, pending[layer], expected)]:
            weights = pending.pop(layer)
            layers[layer] = TransformerBlock(config, weights, layer)
            # evaluated now, so that the file's own tensors are freed before the next file's
            mx.eval(layers[layer].arrays)
    if missing := set(expected) - set(others) - _layer_names(layers, expected):
        raise BundleError(f"tensor {min(missing)} is missing from the bundle")
    model = Model(
        config,
        dtype,
        [layers[layer] for layer in range(config.num_hidden_layers)],
        norm=others.get("model.norm.weight"),
        lm_head=padded(others["lm_head.weight"]) if "lm_head.weight" in others else None,
        operations=operations,
    )
    mx.eval([each for each in (model.norm, model.lm_head) if each is not None])
    return model


def _expected_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    config = manifest.model
    hidden, inner = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    key_value = config.num_key_value_heads * config.head_dim
    projections = {
        "self_attn.q_proj": (query, hidden, config.attention_bias),
        "self_attn.k_proj": (key_value, hidden, config.attention_bias),
        "self_attn.v_proj": (key_value, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, query, config.attention_output_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    # what a rotation has folded into the projections
    folded = manifest.scheme == Scheme.SCHEME_ROTATION
    layer: dict[str, tuple[int, ...]] = {}
    if not folded:
        layer["input_layernorm.weight"] = layer["post_attention_layernorm.weight"] = (hidden,)
    for name, (rows, columns, has_bias) in projections.items():
        layer[f"{name}.weight"] = (rows, columns)
        if has_bias:
            layer[f"{name}.bias"] = (rows,)
    if manifest.scheme == Scheme.SCHEME_PERMUTATION:
        layer["tau"] = (hidden,)
    shapes = {
        f"model.layers.{index}.{name}": shape
        for index in range(config.num_hidden_layers)
        for name, shape in layer.items()
    }
    if manifest.head != Head.HEAD_CLIENT:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
        if not folded:
            shapes["model.norm.weight"] = (hidden,)
    return shapes


def _check_tensor(name: str, array: mx.array, expected: Mapping[str, tuple[int, ...]]) -> None:
    if name not in expected:
        raise BundleError(f"tensor {name} is unknown")
    if array.shape != expected[name]:
        raise BundleError(
            f"tensor {name} has shape {list(array.shape)}, the manifest implies "
            f"{list(expected[name])}"
        )
    if name.endswith(".tau") and not _is_permutation(array):
        raise BundleError(f"tensor {name} is not a permutation")


def _is_permutation(array: mx.array) -> bool:
    return bool(mx.array_equal(mx.sort(array), mx.arange(array.size, dtype=array.dtype)).item())


def _is_complete(
    layer: int, weights: Mapping[str, mx.array], expected: Mapping[str, tuple[int, ...]]
) -> bool:
    prefix = f"model.layers.{layer}."
    return len(weights) == sum(name.startswith(prefix) for name in expected)


def _layer_names(
    layers: Mapping[int, TransformerBlock], expected: Mapping[str, tuple[int, ...]]
) -> set[str]:
    return {
        name
        for name in expected
        if (match := LAYER_NAME.fullmatch(name)) and int(match[1]) in layers
    }
