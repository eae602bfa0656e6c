"""What the Key Center shows of the permutations and rotations in use (SPEC.md, sections 2 and 4).

A fingerprint is a hash of subkeys, not of the permutation: a subkey has 32 bytes, so the hash does
not help to guess a short permutation. Subkeys are not kept here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stip.v1.manifest_pb2 import Manifest, Scheme
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import ClientError
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import PermutationMask, inverse
from stip_keys.masks.rotation import ROUNDS
from stip_model.bundle.modes import head_name, scheme_name

SHOWN = 8
_ROUNDS = f"{ROUNDS} rounds of permutation, signs and Hadamard matrices"
_NONE: Indices = np.empty(0, np.int64)
FINGERPRINT_DIGITS = 16


class WrongMasterKeyError(ClientError):
    """The master key is not the one that the bundle was made with."""

    hint = "--key takes the master key that stip-keys convert used for this bundle"


@dataclass(frozen=True)
class ShownMask:
    """The first indices of a permutation, or the first quarter-turns, angles or signs.

    `label` is SPEC.md's, `of` is what is permuted, `length` is the number of indices. A rotation
    has no indices: its `of` says what it is made of.
    """

    name: str
    label: str
    of: str
    fingerprint: str
    first: tuple[int, ...]
    length: int


def input_mask(bundle: ClientBundle) -> ShownMask:
    """perm_in(0), by which the client permutes its rows, or the rotation in its place."""
    manifest = bundle.manifest
    p = bundle.input_permutation
    if p is None:
        of = f"hidden state, {manifest.model.hidden_size} values: {_ROUNDS}"
        return _shown("rotation", derivation.ROTATION_LABEL, of, manifest.key_id, _NONE)
    identity = manifest.scheme == Scheme.SCHEME_NONE
    return _shown(
        "perm_in(0)",
        "identity" if identity else f"residual/0/block/0…{manifest.residual_blocks - 1}",
        f"hidden state, {_blocks(manifest)}",
        manifest.key_id,
        p,
    )


def input_blocks(bundle: ClientBundle) -> list[ShownMask]:
    """The blocks of perm_in(0) after the first one, without fingerprints."""
    blocks, width = bundle.manifest.residual_blocks, bundle.manifest.model.hidden_size
    p = bundle.input_permutation
    shown: list[ShownMask] = []
    if p is None:
        return shown
    for block, label in enumerate(derivation.residual_labels(0, blocks)[1:], 1):
        first, last = block * width // blocks, (block + 1) * width // blocks
        of = f"places {first} to {last - 1}"
        shown.append(_shown(f"block {block}", label, of, "", p[first:last]))
    return shown


def output_masks(bundle: ClientBundle) -> list[ShownMask]:
    """The masks of what the server sends back, if the client's key holds any."""
    manifest, key = bundle.manifest, bundle.key
    shown = []
    order = key.sealed_order(manifest.model.vocab_size)
    if order is not None:
        of = "tokens, in the order of the logits"
        shown.append(_shown("vocabulary", derivation.VOCABULARY_LABEL, of, "", order))
    mask = key.output_mask()
    if key.output and isinstance(mask, PermutationMask):
        label = f"residual/{key.output_layer}/block/0…{len(key.output) - 1}"
        shown.append(_shown("perm_out", label, "final hidden states that come back", "", mask.p))
    return shown


def check_belongs(master: MasterKey, manifest: Manifest) -> None:
    """Raise WrongMasterKeyError unless the master key made the bundle with this manifest."""
    made = master.client_key(
        manifest.model.hidden_size,
        max(1, manifest.residual_blocks),
        scheme=scheme_name(manifest.scheme),
        head=head_name(manifest.head),
        layers=manifest.model.num_hidden_layers,
    )
    if manifest.scheme == Scheme.SCHEME_NONE or made.key_id != manifest.key_id:
        raise WrongMasterKeyError("this bundle was not made with the master key that was given")


def layer_permutations(master: MasterKey, manifest: Manifest, layer: int = 0) -> list[ShownMask]:
    """The permutations inside one layer: of its heads, of every key/value head, and of the MLP.

    With the rotation scheme the heads turn by angles and rotations instead.
    """
    rotated = manifest.scheme == Scheme.SCHEME_ROTATION
    config = manifest.model
    kv_heads = config.num_key_value_heads
    group = config.num_attention_heads // kv_heads
    name = f"L{layer}"

    heads = master.permutation(derivation.heads_label(layer), kv_heads)
    members = [
        int(kv) * group + master.permutation(derivation.group_label(layer, int(kv)), group)
        for kv in heads
    ]
    groups = [derivation.group_label(layer, head) for head in range(kv_heads)]
    shown = [
        _derived(
            master, f"{name} heads kv", [derivation.heads_label(layer)], "key/value heads", heads
        ),
        _derived(
            master,
            f"{name} heads q",
            [derivation.heads_label(layer), *groups],
            "query heads, slot by slot",
            np.concatenate(members),
        ),
    ]
    for head in range(kv_heads):
        label = derivation.turns_label(layer, head)
        of, turns = _turns(master.subkey(label), config.head_dim // 2, rotated=rotated)
        shown.append(_derived(master, f"{name} qk, head {head}", [label], of, turns))
    values = [derivation.value_label(layer, head) for head in range(kv_heads)]
    for head, label in enumerate(values if rotated else ()):
        of = f"rows of V and columns of O: {_ROUNDS}"
        shown.append(_derived(master, f"{name} kv, head {head}", [label], of, _NONE))
    for head, label in enumerate(() if rotated else values):
        v = master.permutation(label, config.head_dim)
        shown.append(_derived(master, f"{name} kv, head {head}", [label], "rows of V", v))
    for head, label in enumerate(() if rotated else values):
        v = inverse(master.permutation(label, config.head_dim))
        of = "columns of O, the inverse"
        shown.append(_derived(master, f"{name} out, head {head}", [label], of, v))
    label = derivation.mlp_label(layer)
    mlp = master.permutation(label, config.intermediate_size)
    shown.append(_derived(master, f"{name} mlp", [label], "MLP's hidden units", mlp))
    if rotated:
        label = derivation.mlp_signs_label(layer)
        signs = np.where(derivation.signs(master.subkey(label), len(mlp)), -1, 1)
        shown.append(_derived(master, f"{name} mlp signs", [label], "MLP's hidden units", signs))
    return shown


def residual_permutations(master: MasterKey, manifest: Manifest) -> list[ShownMask]:
    """p_1 … p_L, the permutations after each layer; empty for scheme rotation."""
    blocks = manifest.residual_blocks
    shown: list[ShownMask] = []
    if manifest.scheme == Scheme.SCHEME_ROTATION:
        return shown
    for layer in range(1, manifest.model.num_hidden_layers + 1):
        labels = derivation.residual_labels(layer, blocks)
        p = master.residual_permutation(layer, manifest.model.hidden_size, blocks)
        each = _derived(master, f"residual({layer})", labels, f"after layer {layer - 1}", p)
        shown.append(each)
    return shown


def _turns(key: bytes, planes: int, *, rotated: bool) -> tuple[str, Indices]:
    if not rotated:
        return "quarter-turns of RoPE planes", derivation.quarter_turns(key, planes)
    degrees = np.degrees(derivation.angles(key, planes)).round().astype(np.int64)
    return "angles of RoPE planes, in degrees", degrees


def _derived(
    master: MasterKey, name: str, labels: Sequence[str], of: str, indices: Indices
) -> ShownMask:
    lines = "".join(f"{label} {master.subkey(label).hex()}\n" for label in labels)
    fingerprint = hashlib.sha256(lines.encode("ascii")).hexdigest()
    label = labels[0] if len(labels) == 1 else f"{labels[0]}…{labels[-1].rpartition('/')[2]}"
    return _shown(name, label, of, fingerprint, indices)


def _shown(name: str, label: str, of: str, fingerprint: str, indices: Indices) -> ShownMask:
    first = tuple(map(int, indices[:SHOWN]))
    return ShownMask(name, label, of, fingerprint[:FINGERPRINT_DIGITS], first, len(indices))


def _blocks(manifest: Manifest) -> str:
    blocks, width = manifest.residual_blocks, manifest.model.hidden_size
    if blocks <= 1:
        return f"{width} values"
    return f"{blocks} blocks of {width // blocks}"
