"""A conversion only moves and negates weights: the key restores every bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.convert.converter import Converter, Settings
from stip_keys.convert.families import architecture
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.permutation import PermutationMasking
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.permutation import Gather, inverse
from tests.support.models.random_checkpoint import RandomCheckpoint


@st.composite
def checkpoints(draw: st.DrawFn) -> RandomCheckpoint:
    heads, group = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    llama = draw(st.booleans())
    return RandomCheckpoint(
        model_type="llama" if llama else "qwen2",
        hidden_size=heads * group * 2 * draw(st.integers(1, 4)),
        intermediate_size=draw(st.integers(1, 40)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads * group,
        num_key_value_heads=heads,
        head_dim=2 * draw(st.integers(1, 9)),
        vocab_size=draw(st.integers(1, 50)),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=llama and draw(st.booleans()),
        mlp_bias=llama and draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        seed=draw(st.integers(0, 1000)),
        shards=draw(st.integers(1, 3)),
    )


def undo(values: NDArray[np.generic], gather: Gather, axis: int) -> NDArray[np.generic]:
    """Apply the inverse of a gather to one axis of raw bits."""
    bits = {2: np.uint16, 4: np.uint32}[values.itemsize]
    raw = values.view(bits).copy()
    if gather.negate is not None:
        raw[gather.negate] ^= bits(1 << (8 * values.itemsize - 1))
    if gather.indices is not None:
        raw = np.take(raw, inverse(gather.indices), axis=axis)
    return raw


@settings(max_examples=25)
@given(checkpoints(), st.binary(min_size=32, max_size=32), st.integers(0, 5))
def test_conversion_round_trips(drawn: RandomCheckpoint, secret: bytes, divisor: int) -> None:
    divisors = [n for n in range(1, drawn.hidden_size + 1) if drawn.hidden_size % n == 0]
    blocks = divisors[divisor % len(divisors)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(drawn.write(Path(folder) / "checkpoint"))
        key = MasterKey(secret)
        output = Path(folder) / "out"
        Converter(checkpoint, Settings("permutation", key, blocks)).write(output)
        served = {
            name: values
            for file in (output / "server").glob("*.safetensors")
            for name, values in load_file(file).items()
        }
        table = load_file(output / "client" / "embeddings.safetensors")

    original = drawn.tensors()
    config = checkpoint.config
    described = architecture(drawn.model_type)
    spaces = PermutationMasking(config, key, blocks=blocks)
    final = {Space.RESIDUAL_IN: Gather(spaces.residual(config.num_hidden_layers))}
    expected = {
        "model.norm.weight": ((Space.RESIDUAL_IN,), final),
        "lm_head.weight": ((Space.VOCABULARY, Space.RESIDUAL_IN), final),
    }
    for layer in range(config.num_hidden_layers):
        gathers = spaces.layer(layer)
        for name, axes in described.layer_tensors(config).items():
            expected[f"model.layers.{layer}.{name}"] = (axes, gathers)
        tau = served.pop(f"model.layers.{layer}.tau")
        assert np.array_equal(spaces.residual(layer)[tau], spaces.residual(layer + 1))

    assert served.keys() == expected.keys()
    for name, (axes, gathers) in expected.items():
        values: NDArray[np.generic] = served[name]
        for axis, space in enumerate(axes):
            restored = undo(values, gathers.get(space, Gather()), axis)
            values = restored.view(values.dtype)
        tied = name == "lm_head.weight" and drawn.tie_word_embeddings
        source = original["model.embed_tokens.weight" if tied else name]
        assert values.dtype == source.dtype
        assert values.tobytes() == source.tobytes(), name
    assert table["model.embed_tokens.weight"].tobytes() == (
        original["model.embed_tokens.weight"].tobytes()
    )
