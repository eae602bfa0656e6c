"""The true key, in the form that an attack's findings are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Head, ModelConfig, Scheme
from stip_keys.audit.evidence.subject import Subject
from stip_keys.convert.schemes import mask_again
from stip_keys.masks import derivation
from stip_keys.masks.errors import KeyFileError
from stip_keys.masks.keys import MasterKey

Masks = dict[str, NDArray[Any]]


def true_key(subject: Subject, master: MasterKey | None) -> Masks:
    """The masks by SPEC.md's labels: the client's, and with the master key those of the layers.

    Residual permutations are whole ("residual/0"), not in blocks. A rotation is the matrix Q that
    rows are multiplied by. The angles, signs and value rotations of a rotated layer are left out:
    an attacker that has the other masks can compute them. Raises KeyFileError for a master key
    that the bundles were not made with.
    """
    if subject.scheme == Scheme.SCHEME_NONE:
        if master is not None:
            raise KeyFileError("bundles of scheme none have no key")
        return {}
    config = subject.manifest.model
    masks = _client_masks(subject)
    if master is None:
        return masks
    if mask_again(subject.manifest, master).client_key.key_id != subject.manifest.key_id:
        raise KeyFileError(
            f"the master key {master.fingerprint} is not the one that {subject.folder} "
            "was converted with"
        )
    rotated = subject.scheme == Scheme.SCHEME_ROTATION
    if not rotated:
        blocks = subject.manifest.residual_blocks
        for layer in range(config.num_hidden_layers + 1):
            masks[f"residual/{layer}"] = master.residual_permutation(
                layer, config.hidden_size, blocks
            )
    for layer in range(config.num_hidden_layers):
        masks |= _layer_masks(master, layer, config, rotated=rotated)
    return masks


def _client_masks(subject: Subject) -> Masks:
    key, config = subject.client_key, subject.manifest.model
    masks: Masks = {}
    if subject.scheme == Scheme.SCHEME_ROTATION:
        identity = np.eye(config.hidden_size, dtype=np.float32)
        masks["rotation"] = key.input_mask().apply(identity)
    else:
        plain = np.arange(config.hidden_size)
        masks["residual/0"] = key.input_mask().apply(plain)
        if subject.head == Head.HEAD_CLIENT:
            masks[f"residual/{config.num_hidden_layers}"] = key.output_mask().apply(plain)
    if (order := key.sealed_order(config.vocab_size)) is not None:
        masks["vocabulary"] = order
    return masks


def _layer_masks(master: MasterKey, layer: int, config: ModelConfig, *, rotated: bool) -> Masks:
    """The permutations of a layer's heads and hidden units, and the quarter-turns of its heads."""
    heads, head_dim = config.num_key_value_heads, config.head_dim
    sizes = {
        derivation.heads_label(layer): heads,
        derivation.mlp_label(layer): config.intermediate_size,
    }
    turns: Masks = {}
    for head in range(heads):
        sizes[derivation.group_label(layer, head)] = config.num_attention_heads // heads
        if not rotated:
            sizes[derivation.value_label(layer, head)] = head_dim
            label = derivation.turns_label(layer, head)
            turns[label] = master.quarter_turns(label, head_dim // 2)
    return {label: master.permutation(label, size) for label, size in sizes.items()} | turns
