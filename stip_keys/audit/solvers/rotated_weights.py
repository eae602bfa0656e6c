"""Recovers a bundle's rotation and permutations from the public checkpoint.

The MLP's hidden units are matched first, by norms that a rotation of the residual stream does not
change: those of their rows in gate and up and of their columns in down. Each pair of rows of gate
is then an equation for the rotation. Least squares over orthogonal matrices solves them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import PublicModel, View
from stip_keys.audit.solvers.nearest import nearest, pieces
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices

Tensors = Mapping[str, NDArray[Any]]
Float32 = NDArray[np.float32]

# Least cosine between a rotated row of gate and the bundle's row: LIKELY when units are matched by
# norms only, SAME at the end. Rounding to bfloat16 leaves a larger cosine than SAME.
LIKELY, SAME = 0.7, 0.99
# The share of the MLP's rows that must fit the rotation.
BELIEVED = 0.9
# Rows of the head are compared in this many dimensions. Rounding may change a norm by
# NORM_TOLERANCE over the root of hidden_size.
DIMENSIONS = 64
NORM_TOLERANCE = 0.02
BLOCK = 2048


@dataclass(frozen=True)
class Rotated:
    """What was recovered. Rows are rotated as `rows @ rotation`, float32 [hidden_size] squared.

    `vocabulary` says which token each row of the served head is, None where there is no head.
    """

    rotation: Float32
    vocabulary: Indices | None
    key: Mapping[str, NDArray[Any]]


def recover_rotation(view: View) -> Rotated | None:
    """The rotation; None where no rotation takes the model's weights to the bundle's."""
    assert view.bundle is not None and view.public is not None
    public, bundle = view.public, view.bundle
    rotation = _solve(bundle, public)
    if rotation is None:
        return None
    key: dict[str, NDArray[Any]] = {"rotation": rotation}
    for layer in range(public.config.num_hidden_layers):
        candidates = _hidden_units(bundle, public, layer)
        mlp, _ = _choose(candidates, _gate(public, layer) @ rotation, _served_gate(bundle, layer))
        key[derivation.mlp_label(layer)] = mlp
        key |= _heads(bundle, public, layer)
    vocabulary = None
    if "lm_head.weight" in bundle:
        vocabulary = _vocabulary(bundle, public, rotation)
        if not np.array_equal(vocabulary, np.arange(len(vocabulary))):
            key["vocabulary"] = vocabulary
    return Rotated(rotation, vocabulary, key)


def _gate(public: PublicModel, layer: int, name: str = "gate") -> Float32:
    """The model's rows of gate (or up) with the norm before them folded in."""
    prefix = f"model.layers.{layer}."
    norm = public.tensors[f"{prefix}post_attention_layernorm.weight"]
    folded: Float32 = public.tensors[f"{prefix}mlp.{name}_proj.weight"] * norm
    return folded


def _served_gate(bundle: Tensors, layer: int) -> Float32:
    return bundle[f"model.layers.{layer}.mlp.gate_proj.weight"]


def _hidden_units(bundle: Tensors, public: PublicModel, layer: int) -> Indices:
    """The model's hidden units most like each of the bundle's: int64 [intermediate_size, WIDTH]."""
    prefix = f"model.layers.{layer}.mlp."
    ours = [
        _served_gate(bundle, layer),
        bundle[f"{prefix}up_proj.weight"],
        bundle[f"{prefix}down_proj.weight"].T,
    ]
    theirs = [
        _gate(public, layer),
        _gate(public, layer, "up"),
        public.tensors[f"{prefix}down_proj.weight"].T,
    ]
    found, known = (np.log(np.column_stack([_norms(x) for x in each])) for each in (ours, theirs))
    candidates = [nearest(found[k : k + BLOCK], known)[0] for k in range(0, len(found), BLOCK)]
    return np.concatenate(candidates)


def _norms(rows: Float32) -> Float32:
    norms: Float32 = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.maximum(norms, np.finfo(np.float32).tiny)


def _solve(bundle: Tensors, public: PublicModel) -> Float32 | None:
    """The rotation from the first layer's MLP (orthogonal Procrustes; Schönemann, 1966).

    Solves twice: the first solution corrects wrongly matched units.
    """
    plain, served = _gate(public, 0), _served_gate(bundle, 0)
    candidates = _hidden_units(bundle, public, 0)
    units = candidates[:, 0]
    fits = np.ones(len(units), np.bool_)
    for least in (LIKELY, SAME):
        left, _, right = np.linalg.svd(plain[units[fits]].T @ served[fits])
        rotation: Float32 = left @ right
        units, cosines = _choose(candidates, plain @ rotation, served)
        fits = cosines > least
    return rotation if fits.mean() > BELIEVED else None


def _choose(candidates: Indices, rotated: Float32, served: Float32) -> tuple[Indices, Float32]:
    """The candidate whose row, rotated, is most like the bundle's, and the cosine between them."""
    lengths = _norms(rotated)
    best = np.full(len(served), -np.inf, np.float32)
    chosen = candidates[:, 0].copy()
    for column in candidates.T:
        cosines = np.einsum("ij,ij->i", rotated[column], served)
        cosines /= lengths[column] * _norms(served)
        chosen = np.where(cosines > best, column, chosen)
        best = np.maximum(cosines, best)
    return chosen, best


def _heads(bundle: Tensors, public: PublicModel, layer: int) -> dict[str, Indices]:
    """The order of heads, by the norms of their planes, which no angle changes."""
    config, prefix = public.config, f"model.layers.{layer}."
    group = config.num_attention_heads // config.num_key_value_heads
    norm = public.tensors[f"{prefix}input_layernorm.weight"]

    def planes(rows: Float32) -> Float32:
        squares = np.einsum("ij,ij->i", rows, rows).reshape(-1, 2, config.head_dim // 2)
        logarithms: Float32 = np.log(squares.sum(axis=1) + np.finfo(np.float32).tiny)
        return logarithms

    def order(name: str) -> Indices:
        weight = f"{prefix}self_attn.{name}_proj.weight"
        found, known = planes(bundle[weight]), planes(public.tensors[weight] * norm)
        return nearest(found, known, width=1)[0][:, 0]

    heads, members = order("k"), order("q").reshape(-1, group) % group
    key = {derivation.heads_label(layer): heads}
    for slot, head in enumerate(map(int, heads)):
        key[derivation.group_label(layer, head)] = members[slot]
    return key


def _vocabulary(bundle: Tensors, public: PublicModel, rotation: Float32) -> Indices:
    """The token of each row of the served head: the nearest of those with a similar norm."""
    norm = public.tensors["model.norm.weight"]
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((len(rotation), DIMENSIONS)).astype(np.float32)
    directions /= np.float32(np.sqrt(len(rotation)))
    lengths, found = _projected(bundle["lm_head.weight"], rotation.T @ directions)
    known_lengths, known = _projected(public.decoder.head(), directions, norm)
    order, known_order = np.argsort(lengths), np.argsort(known_lengths)
    vocabulary = np.empty(len(found), np.int64)
    tolerance = NORM_TOLERANCE / np.sqrt(len(rotation))
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        low, high = lengths[block[0]], lengths[block[-1]]
        first, last = np.searchsorted(
            known_lengths[known_order], [low * (1 - tolerance), high * (1 + tolerance)]
        )
        # at least one, also where rounding has moved all norms of a block
        near = known_order[max(0, min(first, last - 1)) : last + 1]
        vocabulary[block] = near[nearest(found[block], known[near], width=1)[0][:, 0]]
    return vocabulary


def _projected(
    rows: Float32, directions: Float32, weight: Float32 | None = None
) -> tuple[Float32, Float32]:
    """The norms of rows, times a weight if any, and their products with `directions`."""
    lengths = np.empty(len(rows), np.float32)
    parts = np.empty((len(rows), directions.shape[1]), np.float32)
    for piece in pieces(*rows.shape):
        weighted = rows[piece] if weight is None else rows[piece] * weight
        lengths[piece], parts[piece] = _norms(weighted), weighted @ directions
    return lengths, parts
