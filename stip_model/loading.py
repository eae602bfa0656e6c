"""Loads a server bundle into a Model, layer by layer. Runs on the engine's thread."""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np

from stip.v1.manifest_pb2 import Head, Manifest, Scheme
from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Model, TransformerBlock, norm_weight
from stip_model.errors import BundleError
from stip_model.operations.operations import Array, Operations

Shapes: TypeAlias = dict[str, tuple[int, ...]]
LAYER_NAME = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,8})\.(.+)")


def load_model(bundle: ServerBundle, operations: Operations) -> Model:
    """Check every file of a bundle, then load it. Raises BundleError naming what is wrong."""
    config = bundle.manifest.model
    layer_shapes, other_shapes = _expected_shapes(bundle.manifest)
    layers: dict[int, TransformerBlock] = {}
    # tensors of layers that are not complete yet, and those that belong to no layer
    pending: dict[int, dict[str, Array]] = {}
    others: dict[str, Array] = {}
    for path in bundle.checked_files():
        tensors = operations.load_tensors(path)
        for name, tensor in tensors.items():
            match = LAYER_NAME.fullmatch(name)
            if match and int(match[1]) < config.num_hidden_layers:
                _check_tensor(name, tensor, layer_shapes.get(match[2]), operations)
                pending.setdefault(int(match[1]), {})[match[2]] = tensor
            else:
                _check_tensor(name, tensor, other_shapes.get(name), operations)
                others[name] = tensor
        del tensors
        for layer in [each for each in pending if len(pending[each]) == len(layer_shapes)]:
            block = TransformerBlock(config, pending.pop(layer), layer, operations)
            layers[layer] = block
            # evaluated now, so that the file's own tensors are freed before the next file's
            operations.evaluate(block.weights)
    missing = set(other_shapes) - set(others)
    for layer in set(range(config.num_hidden_layers)) - set(layers):
        lacking = set(layer_shapes) - set(pending.get(layer, ()))
        missing |= {f"model.layers.{layer}.{name}" for name in lacking}
    if missing:
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


def _expected_shapes(manifest: Manifest) -> tuple[Shapes, Shapes]:
    """Return the shapes of a layer's tensors, under their names in it, and of all others."""
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
    layer: Shapes = {}
    others: Shapes = {}
    if not folded:
        layer["input_layernorm.weight"] = layer["post_attention_layernorm.weight"] = (hidden,)
    for name, (rows, columns, has_bias) in projections.items():
        layer[f"{name}.weight"] = (rows, columns)
        if has_bias:
            layer[f"{name}.bias"] = (rows,)
    if manifest.scheme == Scheme.SCHEME_PERMUTATION:
        layer["tau"] = (hidden,)
    if manifest.head != Head.HEAD_CLIENT:
        others["lm_head.weight"] = (config.vocab_size, hidden)
        if not folded:
            others["model.norm.weight"] = (hidden,)
    return layer, others


def _check_tensor(
    name: str, tensor: Array, shape: tuple[int, ...] | None, operations: Operations
) -> None:
    if shape is None:
        raise BundleError(f"tensor {name} is unknown")
    if tensor.shape != shape:
        raise BundleError(
            f"tensor {name} has shape {list(tensor.shape)}, the manifest implies {list(shape)}"
        )
    if name.endswith(".tau"):
        if str(tensor.dtype).rpartition(".")[2] != "int32":
            raise BundleError(f"tensor {name} is {tensor.dtype}, not int32")
        tau = np.sort(operations.to_host(tensor, np.int32))
        if not np.array_equal(tau, np.arange(len(tau))):
            raise BundleError(f"tensor {name} is not a permutation")
