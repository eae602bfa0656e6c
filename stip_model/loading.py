"""Loads a server bundle into a Model, layer by layer. Runs on the engine's thread."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from stip.v1.manifest_pb2 import Head, Manifest, Scheme
from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Model, TransformerBlock, norm_weight
from stip_model.errors import BundleError
from stip_model.operations.operations import Array, Operations

LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)")


def load_model(bundle: ServerBundle, operations: Operations) -> Model:
    """Check every file of a bundle, then load it. Raises BundleError naming what is wrong."""
    config = bundle.manifest.model
    expected = _expected_shapes(bundle.manifest)
    layers: dict[int, TransformerBlock] = {}
    # tensors of layers that are not complete yet, and those that belong to no layer
    pending: dict[int, dict[str, Array]] = {}
    others: dict[str, Array] = {}
    for path in bundle.checked_files():
        tensors = operations.load_tensors(path)
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, expected, operations)
            if match := LAYER_NAME.fullmatch(name):
                pending.setdefault(int(match[1]), {})[match[2]] = tensor
            else:
                others[name] = tensor
        del tensors
        for layer in [layer for layer in pending if _is_complete(layer, pending[layer], expected)]:
            block = TransformerBlock(config, pending.pop(layer), layer, operations)
            layers[layer] = block
            # evaluated now, so that the file's own tensors are freed before the next file's
            operations.evaluate(block.weights)
    if missing := set(expected) - set(others) - _layer_names(layers, expected):
        raise BundleError(f"tensor {min(missing)} is missing from the bundle")
    has_head = "lm_head.weight" in others
    model = Model(
        config,
        operations,
        [layers[layer] for layer in range(config.num_hidden_layers)],
        norm=norm_weight(others, "model.norm", operations),
        lm_head=operations.linear_weights(others, "lm_head") if has_head else None,
    )
    operations.evaluate([each for each in (model.norm, model.lm_head) if each is not None])
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
    # the projections contain the norms' weights
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


def _check_tensor(
    name: str, tensor: Array, expected: Mapping[str, tuple[int, ...]], operations: Operations
) -> None:
    if name not in expected:
        raise BundleError(f"tensor {name} is unknown")
    if tensor.shape != expected[name]:
        raise BundleError(
            f"tensor {name} has shape {list(tensor.shape)}, the manifest implies "
            f"{list(expected[name])}"
        )
    if name.endswith(".tau"):
        tau = np.sort(operations.to_host(tensor, np.int32))
        if not np.array_equal(tau, np.arange(len(tau))):
            raise BundleError(f"tensor {name} is not a permutation")


def _is_complete(
    layer: int, tensors: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]]
) -> bool:
    prefix = f"model.layers.{layer}."
    return len(tensors) == sum(name.startswith(prefix) for name in expected)


def _layer_names(
    layers: Mapping[int, TransformerBlock], expected: Mapping[str, tuple[int, ...]]
) -> set[str]:
    return {
        name
        for name in expected
        if (match := LAYER_NAME.fullmatch(name)) and int(match[1]) in layers
    }
