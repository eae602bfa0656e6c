"""Recovers every permutation of a bundle from the public checkpoint, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import PublicModel, View
from stip_keys.audit.solvers.weight_hashes import (
    Hashes,
    column_signatures,
    is_ambiguous,
    joined,
    pairing,
    row_signatures,
    stored_type,
)
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import inverse

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Permutations:
    """What was recovered: the residual stream's p_0 … p_L, and all permutations by their labels."""

    residual: list[Indices]
    vocabulary: Indices | None
    key: Mapping[str, Indices]


def recover_permutations(view: View) -> Permutations | None:
    """All permutations of the bundle; None where its weights are not the model's, permuted."""
    assert view.bundle is not None and view.public is not None
    public, bundle = view.public, view.bundle
    layers = public.config.num_hidden_layers
    dtype = stored_type(bundle["model.layers.0.mlp.gate_proj.weight"])
    residual = _residual(bundle, public, dtype)
    if residual is None:
        return None
    key: dict[str, Indices] = {f"residual/{i}": p for i, p in enumerate(residual)}
    for layer in range(layers):
        found = _layer(bundle, public, dtype, layer, residual[layer], residual[layer + 1])
        if found is None:
            return None
        key |= found
    vocabulary = None
    if "lm_head.weight" in bundle:
        # not at once: each matrix is as large as everything else in memory
        served = row_signatures(bundle["lm_head.weight"], dtype, residual[layers])
        plain = row_signatures(public.decoder.head(), dtype, np.arange(len(residual[layers])))
        vocabulary = pairing(served, plain)
        if vocabulary is None:
            return None
        if not np.array_equal(vocabulary, np.arange(len(vocabulary))):
            key["vocabulary"] = vocabulary
    return Permutations(residual, vocabulary, key)


def _residual(bundle: Tensors, public: PublicModel, dtype: np.dtype[Any]) -> list[Indices] | None:
    """p_0 … p_L: one from a layer's columns, the others from it by the public taus."""
    layers = public.config.num_hidden_layers
    found: tuple[int, Indices] | None = None
    for layer in range(layers):
        known = _columns(public.tensors, layer, dtype)
        p = pairing(_columns(bundle, layer, dtype), known)
        if p is None:
            return None
        if found is None or not is_ambiguous(known):
            found = layer, p
        if not is_ambiguous(known):
            break
    assert found is not None
    layer, p = found
    plain = np.arange(len(p))
    taus = [bundle.get(f"model.layers.{i}.tau", plain) for i in range(layers)]
    residual = [p]
    for tau in reversed(taus[:layer]):
        residual.insert(0, residual[0][inverse(tau)])
    for tau in taus[layer:]:
        residual.append(residual[-1][tau])
    return residual


def _columns(tensors: Tensors, layer: int, dtype: np.dtype[Any]) -> Hashes:
    """Signatures of the residual stream's coordinates as a layer reads them."""
    prefix = f"model.layers.{layer}."
    norm = tensors[f"{prefix}input_layernorm.weight"][None]
    projections = [tensors[f"{prefix}self_attn.{name}_proj.weight"] for name in ("q", "k", "v")]
    return joined([column_signatures(each, dtype) for each in (norm, *projections)])


def _layer(
    bundle: Tensors,
    public: PublicModel,
    dtype: np.dtype[Any],
    layer: int,
    before: Indices,
    after: Indices,
) -> dict[str, Indices] | None:
    """The permutations within a layer that reads space `before` and writes space `after`."""
    config, prefix = public.config, f"model.layers.{layer}."
    head_dim = config.head_dim
    group = config.num_attention_heads // config.num_key_value_heads

    def rows(name: str, columns: Indices) -> Indices | None:
        ours, theirs = bundle[f"{prefix}{name}.weight"], public.tensors[f"{prefix}{name}.weight"]
        plain = np.arange(theirs.shape[1])
        return pairing(row_signatures(ours, dtype, columns), row_signatures(theirs, dtype, plain))

    queries = rows("self_attn.q_proj", before)
    keys = rows("self_attn.k_proj", before)
    values = rows("self_attn.v_proj", before)
    mlp = rows("mlp.gate_proj", after)
    if queries is None or keys is None or values is None or mlp is None:
        return None
    heads = keys[::head_dim] // head_dim
    members = (queries[::head_dim] // head_dim).reshape(-1, group) % group
    name = f"{prefix}self_attn.k_proj.weight"
    aligned = np.einsum("ij,ij->i", bundle[name], public.tensors[name][keys][:, before])
    key = {derivation.heads_label(layer): heads, derivation.mlp_label(layer): mlp}
    for slot, head in enumerate(map(int, heads)):
        own = slice(slot * head_dim, (slot + 1) * head_dim)
        first = slice(own.start, own.start + head_dim // 2)
        swapped = keys[first] % head_dim >= head_dim // 2
        # the first rows of a plane: x, -y, -x, y (SPEC.md, "Quarter-turns")
        turns = np.where(aligned[first] < 0, np.where(swapped, 1, 2), np.where(swapped, 3, 0))
        key[derivation.group_label(layer, head)] = members[slot]
        key[derivation.turns_label(layer, head)] = turns
        key[derivation.value_label(layer, head)] = values[own] % head_dim
    return key
