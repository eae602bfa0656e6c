"""The key as an attack may recover it: what its findings are compared with."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Scheme
from stip_keys import derivation
from stip_keys.audit.subject import Subject
from stip_keys.errors import KeyFileError
from stip_keys.keys import MasterKey

Masks = dict[str, NDArray[Any]]


def true_key(subject: Subject, master: MasterKey | None) -> Masks:
    """Every mask by SPEC.md's labels: the client's, and with the master key all others too.

    Residual permutations stand whole ("residual/0"). Raises KeyFileError for a master key that
    these bundles were not made with.
    """
    if subject.scheme == Scheme.SCHEME_NONE:
        if master is not None:
            raise KeyFileError("bundles of scheme none have no key")
        return {}
    masks: Masks = {"residual/0": subject.client_key.input_permutation()}
    if master is None:
        return masks
    config, blocks = subject.manifest.model, subject.manifest.residual_blocks
    if master.client_key(config.hidden_size, blocks).key_id != subject.manifest.key_id:
        raise KeyFileError(
            f"the master key {master.fingerprint} is not the one that {subject.folder} "
            "was converted with"
        )
    for layer in range(1, config.num_hidden_layers + 1):
        masks[f"residual/{layer}"] = master.residual_permutation(layer, config.hidden_size, blocks)
    for layer in range(config.num_hidden_layers):
        masks |= _layer(master, layer, config)
    return masks


def _layer(master: MasterKey, layer: int, config: Any) -> Masks:
    heads = config.num_key_value_heads
    group = config.num_attention_heads // heads
    sizes = {
        derivation.heads_label(layer): heads,
        derivation.mlp_label(layer): config.intermediate_size,
    }
    for head in range(heads):
        sizes[derivation.group_label(layer, head)] = group
        sizes[derivation.value_label(layer, head)] = config.head_dim
    masks: Masks = {label: master.permutation(label, size) for label, size in sizes.items()}
    for head in range(heads):
        label = derivation.turns_label(layer, head)
        masks[label] = master.quarter_turns(label, config.head_dim // 2)
    return masks
