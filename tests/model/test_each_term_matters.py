"""Breaking any one term of the computation, any permutation, angle or sign, makes the comparison
fail.

Without these, an oracle test could pass on a model in which the term has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.converter import Converter, Settings
from stip_keys.convert.families import architecture
from stip_keys.convert.families.family import NORMS, Axes, Space
from stip_keys.convert.plan import Plan
from stip_keys.convert.schemes.masked_tensor import MaskedTensor
from stip_keys.convert.schemes.permutation import PermutationMasking
from stip_keys.convert.schemes.rotation import RotatedTensor, RotationMasking
from stip_keys.masks.key_file import read_client_key
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_keys.masks.permutation import Gather, Mask
from stip_keys.masks.rotation import Heads, LinearMap, PlaneRotation
from stip_model import decoder as server_model
from stip_model.bundle.manifest import ServerBundle
from stip_model.decoder import Segment
from stip_model.loading import load_model
from stip_model.operations.mlx import MlxOperations
from tests.support.models.oracle import TOLERANCE, Oracle, relative_error
from tests.support.models.random_models import MODELS

PROMPT = list(range(3, 27))
# A broken term must show clearly, not by a hair.
BROKEN = 100 * TOLERANCE

Weights = Mapping[str, mx.array]


class Case:
    """A converted checkpoint, its oracle's logits, and the server's model run in this process."""

    def __init__(self, name: str, scheme: str, folder: Path) -> None:
        self.scheme = scheme
        self.checkpoint = MODELS[name].write(folder / "checkpoint")
        self.expected = Oracle(self.checkpoint).logits(PROMPT)
        self.embeddings = MODELS[name].tensors()["model.embed_tokens.weight"]
        self.bundles = self.convert(folder / "bundles")

    def convert(self, output: Path) -> Path:
        # so that a rotation rounds as little as the oracle
        dtype = "float32" if self.scheme == "rotation" else "auto"
        settings = Settings(self.scheme, MasterKey.from_base_seed(5), dtype=dtype)
        Converter(Checkpoint(self.checkpoint), settings).write(output)
        return output

    def error(
        self,
        bundles: Path | None = None,
        *,
        change: Callable[[str, mx.array], mx.array] = lambda _, array: array,
        mask: Mask | None = None,
    ) -> float:
        """The relative error of the logits, after `change` has been applied to every weight."""
        bundles = bundles or self.bundles
        mask = mask or read_client_key(bundles / "client" / "client.key").input_mask()
        operations = MlxOperations("cpu", mx.float32)
        original_load = mx.load
        try:
            mx.load = lambda path: {  # type: ignore[assignment]
                name: change(name, array) for name, array in original_load(path).items()
            }
            model = load_model(ServerBundle(bundles / "server"), operations)
        finally:
            mx.load = original_load
        rows = mask.apply(self.embeddings[PROMPT].astype(np.float32))
        cache = model.new_cache()
        assert list(cache.ensure_capacity(0, len(PROMPT))) == []
        kept = model(operations.from_host(rows), [Segment(cache, 0, len(PROMPT), 0)])
        assert kept is not None
        return relative_error(np.array(model.head_outputs(kept)), self.expected)


@pytest.fixture(
    scope="module", params=list(product(MODELS, ("permutation", "rotation"))), ids="-".join
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(*request.param, tmp_path_factory.mktemp("case"))


# The same cases, of one scheme only.
of_rotation, of_permutation = (
    pytest.mark.parametrize("case", list(product(MODELS, (scheme,))), ids="-".join, indirect=True)
    for scheme in ("rotation", "permutation")
)


def test_nothing_broken_agrees(case: Case) -> None:
    assert case.error() < TOLERANCE


def test_every_weight_bias_and_norm_of_every_layer(case: Case) -> None:
    """Biases are dropped, norms set to one, weights and tau are reversed along their first axis."""
    names = [
        name
        for file in sorted((case.bundles / "server").glob("*.safetensors"))
        for name in mx.load(str(file))
    ]
    assert len(names) > 20

    def broken(name: str) -> float:
        def change(each: str, array: mx.array) -> mx.array:
            if each != name:
                return array
            if name.endswith(".bias"):
                return mx.zeros_like(array)
            if "norm" in name:
                return mx.ones_like(array)
            return array[::-1]

        return case.error(change=change)

    hidden = [name for name in names if broken(name) < BROKEN]
    assert hidden == []


def test_every_space_of_every_tensor(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One axis of one tensor of one layer is left as it was, for all of them in turn."""
    original = Plan._made
    config = Checkpoint(case.checkpoint).config
    tensors = dict(architecture(config.model_type).layer_tensors(config))
    if case.scheme == "rotation":  # there are no norms then
        tensors = {name: axes for name, axes in tensors.items() if name not in NORMS.values()}
    sides = [(name, axis) for name, axes in tensors.items() for axis in range(len(axes))]
    unnoticed = []
    for number, (name, axis) in enumerate(sides):

        def made(
            self: Plan,
            target: str,
            prefix: str,
            axes: Axes,
            spaces: Mapping[Space, Any],
            broken: tuple[str, int] = (f"model.layers.1.{name}", axis),
        ) -> MaskedTensor | None:
            if prefix + target == broken[0]:
                kept = [Space.VOCABULARY if i == broken[1] else a for i, a in enumerate(axes)]
                return original(self, target, prefix, tuple(kept), spaces)
            return original(self, target, prefix, axes, spaces)

        monkeypatch.setattr(Plan, "_made", made)
        if case.error(case.convert(tmp_path / str(number))) < BROKEN:
            unnoticed.append((name, axis))
    assert unnoticed == []


@of_rotation
def test_every_norm_that_was_folded(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Plan._made
    unnoticed = []
    for number, name in enumerate(
        [*(f"model.layers.1.{each}" for each in NORMS), "lm_head.weight"]
    ):

        def made(self: Plan, *arguments: Any, broken: str = name) -> MaskedTensor | None:
            tensor = original(self, *arguments)
            if isinstance(tensor, RotatedTensor) and tensor.name == broken:
                assert tensor.norm is not None
                return replace(tensor, norm=None)
            return tensor

        monkeypatch.setattr(Plan, "_made", made)
        if case.error(case.convert(tmp_path / str(number))) < BROKEN:
            unnoticed.append(name)
    assert unnoticed == []


@of_rotation
def test_angles_of_queries_and_keys_must_agree_and_signs_must_cancel(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, config = RotationMasking.layer, Checkpoint(case.checkpoint).config

    def one_angle(maps: dict[Space, LinearMap]) -> None:
        """Of the first plane of the first key head alone."""
        angles = np.zeros(config.head_dim // 2)
        angles[0] = 1.0
        plain = PlaneRotation(np.zeros(config.head_dim // 2))
        heads = [(0, PlaneRotation(angles))]
        heads += [(head, plain) for head in range(1, config.num_key_value_heads)]
        turned, further = maps[Space.KEY], Heads(heads, config.head_dim)
        maps[Space.KEY] = Both(turned, further)

    def signs_before_the_activation(maps: dict[Space, LinearMap]) -> None:
        maps[Space.GATE] = maps[Space.MLP]

    for number, broken in enumerate((one_angle, signs_before_the_activation)):

        def layer(
            self: RotationMasking,
            index: int,
            broken: Callable[[dict[Space, LinearMap]], None] = broken,
        ) -> dict[Space, LinearMap]:
            maps = original(self, index)
            broken(maps)
            return maps

        monkeypatch.setattr(RotationMasking, "layer", layer)
        assert case.error(case.convert(tmp_path / str(number))) > BROKEN


class Both:
    """Two maps, one after the other."""

    def __init__(self, first: LinearMap, second: LinearMap) -> None:
        self._maps = (first, second)

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        first, second = self._maps
        return second.apply(first.apply(x))


@of_permutation
def test_quarter_turns_of_queries_and_keys_must_agree(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PermutationMasking.layer

    def layer(self: PermutationMasking, index: int) -> dict[Space, Gather]:
        gathers = original(self, index)
        turned = gathers[Space.KEY]
        gathers[Space.KEY] = Gather(turned.indices, None)  # the signs alone are lost
        return gathers

    monkeypatch.setattr(PermutationMasking, "layer", layer)
    assert case.error(case.convert(tmp_path / "broken")) > BROKEN


def test_the_clients_mask(case: Case) -> None:
    hidden_size = case.embeddings.shape[1]
    assert case.error(mask=ClientKey.identity(hidden_size).input_mask()) > BROKEN
    other = MasterKey.from_base_seed(6).client_key(hidden_size, 1, scheme=case.scheme)
    assert case.error(mask=other.input_mask()) > BROKEN


def test_rope(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server_model,
        "inverse_frequencies",
        lambda rope, head_dim: np.zeros(head_dim // 2),  # noqa: ARG005 - the real signature
    )
    assert case.error() > BROKEN


def test_rope_base_and_scaling(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    original = server_model.inverse_frequencies

    def plain(rope: object, head_dim: int) -> NDArray[np.float64]:
        changed = type(rope)()
        changed.CopyFrom(rope)
        if changed.rope_type == "default":
            changed.rope_theta *= 3
        changed.rope_type = "default"
        return original(changed, head_dim)

    monkeypatch.setattr(server_model, "inverse_frequencies", plain)
    assert case.error() > BROKEN


def test_causal_mask(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    original = mx.fast.scaled_dot_product_attention

    def unmasked(*arrays: mx.array, scale: float, mask: object) -> mx.array:
        assert mask == "causal"
        return original(*arrays, scale=scale)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", unmasked)
    assert case.error() > BROKEN


def test_attention_scale(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    original = mx.fast.scaled_dot_product_attention

    def unscaled(*arrays: mx.array, scale: float, mask: str) -> mx.array:
        return original(*arrays, scale=2 * scale, mask=mask)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", unscaled)
    assert case.error() > BROKEN
