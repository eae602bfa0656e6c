"""The audit's decoder equals unmodified mlx-lm, also for bundles and for pieces of a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stip_keys.audit.evidence.numpy_decoder import Decoder
from stip_keys.convert.checkpoint import Checkpoint, StoredTensors
from stip_keys.masks.key_file import read_client_key
from stip_model.bundle.manifest import read_manifest
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.models.random_models import MODELS
from tests.support.parties import convert

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


class Model:
    """A random checkpoint on disk, its permuted bundles, the oracle, and a conversation."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = MODELS[name].write(folder / "checkpoint")
        self.config = Checkpoint(self.folder).config
        self.tensors = StoredTensors.of_folder(self.folder)
        self.decoder = Decoder(self.config, self.tensors)
        self.oracle = Oracle(self.folder)
        self.tokens = np.random.default_rng(0).integers(self.config.vocab_size, size=23)

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.tensors[EMBEDDING][tokens]


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(request.param, tmp_path_factory.mktemp("decoder"))


def logits(decoder: Decoder, states: NDArray[np.float32]) -> NDArray[np.float32]:
    return decoder.normalised(states) @ decoder.head().T


def test_logits_are_the_oracles(model: Model) -> None:
    *_, (last, shorter) = model.decoder.hidden_states(
        [model.rows(model.tokens), model.rows(model.tokens[:5])]
    )
    expected = model.oracle.logits(model.tokens.tolist())
    assert_equal_logits(logits(model.decoder, last), expected)
    assert_equal_logits(logits(model.decoder, shorter), expected[:5])


@pytest.mark.parametrize("head", ["server", "client", "sealed"])
@pytest.mark.parametrize("scheme", ["permutation", "rotation"])
def test_a_bundle_of_any_mode_gives_the_oracles_logits(
    model: Model, tmp_path: Path, scheme: str, head: str
) -> None:
    how = ("--scheme", scheme, "--head", head, "--base-seed", 3, "--dtype", "float32")
    bundles = convert(model.folder, tmp_path / "bundles", *how)
    key = read_client_key(bundles / "client" / "client.key")
    server = bundles / "server"
    decoder = Decoder(read_manifest(server).model, StoredTensors.of_folder(server))
    *_, (states,) = decoder.hidden_states([key.input_mask().apply(model.rows(model.tokens))])
    if head == "client":
        final = key.output_mask().undo(decoder.normalised(states)) * model.tensors[NORM]
        found = final @ model.decoder.head().T
    else:
        found = logits(decoder, states)
    if head == "sealed":
        found = found[:, np.argsort(key.sealed_order(model.config.vocab_size))]
    assert_equal_logits(found, model.oracle.logits(model.tokens.tolist()))


def test_a_conversation_in_pieces_gives_the_oracles_logits(model: Model) -> None:
    """Two conversations at once, of different lengths and in different pieces."""
    decoder, tokens = model.decoder, model.tokens
    prefixes = [decoder.prefix(), decoder.prefix()]
    decoder.extend(prefixes, [model.rows(tokens[:7]), model.rows(tokens[3:4])])
    found = decoder.extend(prefixes, [model.rows(tokens[7:11]), model.rows(tokens[4:20])])
    assert_equal_logits(logits(decoder, found[0]), model.oracle.logits(tokens[:11].tolist())[7:])
    assert_equal_logits(logits(decoder, found[1]), model.oracle.logits(tokens[3:20].tolist())[1:])
    assert [each.length for each in prefixes] == [11, 17]


def test_alternatives_are_what_each_would_be_as_the_next_row(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_keys.audit.evidence.numpy_decoder.CHUNK", 4)
    decoder, tokens = model.decoder, model.tokens
    prefixes = [decoder.prefix(), decoder.prefix()]
    decoder.extend([prefixes[0]], [model.rows(tokens[:9])])
    candidates = np.arange(10)
    depth = model.config.num_hidden_layers
    rows = [model.rows(candidates), model.rows(candidates[:3])]
    found = decoder.alternatives(prefixes, rows, depth)
    for candidate in candidates:
        expected = model.oracle.logits([*tokens[:9].tolist(), int(candidate)])[-1:]
        assert_equal_logits(logits(decoder, found[0][candidate : candidate + 1]), expected)
    expected = model.oracle.logits([2])
    assert_equal_logits(logits(decoder, found[1][2:]), expected)


def test_alternatives_are_followed_as_deep_as_asked_for(model: Model) -> None:
    rows = model.rows(model.tokens)
    states = [each[0] for each in model.decoder.hidden_states([rows])]
    prefix = model.decoder.prefix()
    model.decoder.extend([prefix], [rows[:-1]])
    for depth in range(1, model.config.num_hidden_layers + 1):
        (found,) = model.decoder.alternatives([prefix], [rows[-1:]], depth)
        np.testing.assert_allclose(found, states[depth - 1][-1:], rtol=1e-4, atol=1e-4)


def test_layers_that_do_not_fit_are_read_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stip_keys.audit.evidence.numpy_decoder.KEEP_BYTES", 0)
    fresh = Decoder(model.config, model.tensors)
    *_, (states,) = fresh.hidden_states([model.rows(model.tokens)])
    assert_equal_logits(logits(fresh, states), model.oracle.logits(model.tokens.tolist()))


def test_scores_are_the_products_of_turned_queries_and_keys(model: Model) -> None:
    """Softened with the mask, they weigh the values as the whole first layer does."""
    decoder, rows = model.decoder, model.rows(model.tokens)
    (scores,) = decoder.scores([rows])
    config = model.config
    assert scores.shape == (config.num_attention_heads, len(rows), len(rows))
    states = next(decoder.hidden_states([rows]))[0]
    # the first row sees only itself: whatever its score, its value is taken whole; so compare
    # through the softmax of another row, computed here only from the scores
    layer = decoder._layer(0)
    _, _, values = layer.project(rows, np.arange(len(rows)))
    causal = np.where(np.tri(len(rows), dtype=bool), scores, -np.inf)
    weights = np.exp(causal - causal.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    group = config.num_attention_heads // config.num_key_value_heads
    attended = np.einsum("hqk,khd->qhd", weights, np.repeat(values, group, axis=1))
    expected = layer._finish(rows, attended.reshape(len(rows), -1).astype(np.float32))
    np.testing.assert_allclose(states, expected, rtol=1e-3, atol=1e-3)
