"""Breaking any one term of the computation, or any one permutation, makes the comparison fail.

Without these, an oracle test could pass on a model in which the term has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from stip_keys.architectures import architecture
from stip_keys.architectures.base import Axes, Space
from stip_keys.checkpoint import Checkpoint
from stip_keys.convert import Converter, Settings
from stip_keys.converted import ConvertedTensor
from stip_keys.derivation import Indices
from stip_keys.keyfile import read_client_key
from stip_keys.keys import MasterKey
from stip_keys.permutation import Gather
from stip_keys.spaces import PermutationSpaces
from stip_server import model as server_model
from stip_server.bundle import ServerBundle
from stip_server.loader import load_model
from stip_server.model import Segment
from tests.models import MODELS
from tests.oracle import TOLERANCE, Oracle, relative_error

PROMPT = list(range(3, 27))
# A broken term must show clearly, not by a hair.
BROKEN = 100 * TOLERANCE

Weights = Mapping[str, mx.array]


class Case:
    """A converted checkpoint, its oracle's logits, and the server's model run in this process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.checkpoint = MODELS[name].write(folder / "checkpoint")
        self.expected = Oracle(self.checkpoint).logits(PROMPT)
        self.embeddings = MODELS[name].tensors()["model.embed_tokens.weight"]
        self.bundles = self.convert(folder / "bundles")

    def convert(self, output: Path) -> Path:
        settings = Settings("permutation", MasterKey.from_base_seed(5))
        Converter(Checkpoint(self.checkpoint), settings).write(output)
        return output

    def error(
        self,
        bundles: Path | None = None,
        *,
        change: Callable[[str, mx.array], mx.array] = lambda _, array: array,
        input_permutation: Indices | None = None,
    ) -> float:
        """The relative error of the logits, after `change` has been applied to every weight."""
        bundles = bundles or self.bundles
        if input_permutation is None:
            key = read_client_key(bundles / "client" / "client.key")
            input_permutation = key.input_permutation()
        original_load = mx.load
        try:
            mx.load = lambda path: {  # type: ignore[assignment]
                name: change(name, array) for name, array in original_load(path).items()
            }
            model = load_model(ServerBundle(bundles / "server"), mx.float32)
        finally:
            mx.load = original_load
        rows = self.embeddings[PROMPT].astype(np.float32)[:, input_permutation]
        cache = model.new_cache()
        cache.reserve(len(PROMPT))
        kept = model(mx.array(rows), [Segment(cache, 0, len(PROMPT), 0)])
        assert kept is not None
        return relative_error(np.array(model.answers(kept)), self.expected)


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("case"))


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


def test_every_permutation_of_every_tensor(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One axis of one tensor of one layer is left in plain order, for all of them in turn."""
    original = Converter._converted
    config = Checkpoint(case.checkpoint).config
    tensors = architecture(config.model_type).layer_tensors(config)
    sides = [(name, axis) for name, axes in tensors.items() for axis in range(len(axes))]
    unnoticed = []
    for number, (name, axis) in enumerate(sides):

        def converted(
            self: Converter,
            target: str,
            source: str,
            axes: Axes,
            gathers: Mapping[Space, Gather],
            broken: tuple[str, int] = (f"model.layers.1.{name}", axis),
        ) -> ConvertedTensor:
            if target == broken[0]:
                kept = [Space.VOCABULARY if i == broken[1] else a for i, a in enumerate(axes)]
                return original(self, target, source, tuple(kept), gathers)
            return original(self, target, source, axes, gathers)

        monkeypatch.setattr(Converter, "_converted", converted)
        if case.error(case.convert(tmp_path / str(number))) < BROKEN:
            unnoticed.append((name, axis))
    assert unnoticed == []


def test_quarter_turns_of_queries_and_keys_must_agree(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PermutationSpaces.layer

    def layer(self: PermutationSpaces, index: int) -> dict[Space, Gather]:
        gathers = original(self, index)
        turned = gathers[Space.KEY]
        gathers[Space.KEY] = Gather(turned.indices, None)  # the signs alone are lost
        return gathers

    monkeypatch.setattr(PermutationSpaces, "layer", layer)
    assert case.error(case.convert(tmp_path / "broken")) > BROKEN


def test_the_clients_input_permutation(case: Case) -> None:
    hidden_size = case.embeddings.shape[1]
    assert case.error(input_permutation=np.arange(hidden_size)) > BROKEN
    other = MasterKey.from_base_seed(6).residual_permutation(0, hidden_size, 1)
    assert case.error(input_permutation=other) > BROKEN


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
