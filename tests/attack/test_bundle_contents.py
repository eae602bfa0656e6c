"""What an attacker finds in the server's bundle: no key, no embedding row in plain order."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from stip_keys.masks import derivation
from stip_keys.masks.key_file import read_client_key
from stip_keys.masks.keys import MasterKey
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.models.random_models import MODELS
from tests.support.parties import BASE_SEED, make_model


@pytest.fixture(scope="module", params=list(MODELS))
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RandomCheckpoint, Path]:
    model = MODELS[request.param]
    return model, make_model(tmp_path_factory.mktemp("attack"), model)


def server_files(bundles: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (bundles / "server").iterdir()}


def embedding_rows(model: RandomCheckpoint) -> list[bytes]:
    return [row.tobytes() for row in model.tensors()["model.embed_tokens.weight"]]


def every_subkey(model: RandomCheckpoint) -> list[bytes]:
    key = MasterKey.from_base_seed(BASE_SEED)
    labels = [
        label
        for layer in range(model.num_hidden_layers + 1)
        for label in derivation.residual_labels(layer, model.hidden_size)
    ]
    for layer in range(model.num_hidden_layers):
        labels += [derivation.heads_label(layer), derivation.mlp_label(layer)]
        for head in range(model.num_key_value_heads):
            labels += [
                derivation.group_label(layer, head),
                derivation.turns_label(layer, head),
                derivation.value_label(layer, head),
            ]
    return [key.secret, *map(key.subkey, labels)]


def test_the_server_bundle_lists_only_layers_head_and_manifest(
    converted: tuple[RandomCheckpoint, Path],
) -> None:
    model, bundles = converted
    layers = {f"layer_{layer:02}.safetensors" for layer in range(model.num_hidden_layers)}
    assert set(server_files(bundles)) == layers | {
        "non_layer_part_00.safetensors",
        "manifest.json",
    }


def test_no_server_file_holds_a_key(converted: tuple[RandomCheckpoint, Path]) -> None:
    model, bundles = converted
    secrets = every_subkey(model)
    for name, content in server_files(bundles).items():
        for secret in secrets:
            assert secret not in content, name
            assert secret.hex().encode() not in content.lower(), name


def test_the_client_bundle_holds_the_input_subkeys_and_no_other(
    converted: tuple[RandomCheckpoint, Path],
) -> None:
    model, bundles = converted
    own = read_client_key(bundles / "client" / "client.key").subkeys
    assert own
    for path in (bundles / "client").iterdir():
        content = path.read_bytes()
        for secret in set(every_subkey(model)) - set(own):
            assert secret not in content, path.name
            assert secret.hex().encode() not in content.lower(), path.name


def test_no_server_file_holds_an_embedding_row_in_plain_order(
    converted: tuple[RandomCheckpoint, Path],
) -> None:
    model, bundles = converted
    for name, content in server_files(bundles).items():
        assert not any(row in content for row in embedding_rows(model)), name


def test_the_search_finds_rows_where_nothing_is_permuted(tmp_path: Path) -> None:
    model = MODELS["qwen2-tied-odd-heads"]
    bundles = make_model(tmp_path, model, "--scheme", "none")
    head = server_files(bundles)["non_layer_part_00.safetensors"]
    assert all(row in head for row in embedding_rows(model))


@pytest.mark.parametrize("scheme", ["permutation", "rotation"])
@pytest.mark.parametrize("name", MODELS)
def test_with_the_head_at_the_client_the_server_has_nothing_of_the_vocabularys_size(
    name: str, scheme: str, tmp_path: Path
) -> None:
    model = MODELS[name]
    options = ("--scheme", scheme, "--base-seed", BASE_SEED)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for head in ("server", "client"):
        bundles = make_model(tmp_path / head, model, *options, "--head", head)
        shapes[head] = {
            key: mx.load(str(path))[key].shape
            for path in (bundles / "server").glob("*.safetensors")
            for key in mx.load(str(path))
        }
    assert any(model.vocab_size in shape for shape in shapes["server"].values())
    assert not any(model.vocab_size in shape for shape in shapes["client"].values())
    assert set(shapes["server"]) - set(shapes["client"]) == (
        {"lm_head.weight"} | ({"model.norm.weight"} if scheme == "permutation" else set())
    )


@pytest.mark.parametrize("head", ["client", "sealed"])
@pytest.mark.parametrize("scheme", ["permutation", "rotation"])
def test_no_server_file_holds_a_row_of_the_head_in_vocabulary_order(
    scheme: str, head: str, tmp_path: Path
) -> None:
    """Sealed, the head of one key is that of another in another order."""
    model, heads = MODELS["qwen2-tied-odd-heads"], {}
    for name in ("server", head):
        options = ("--scheme", scheme, "--base-seed", BASE_SEED, "--head", name)
        bundles = make_model(tmp_path / name, model, *options)
        part = bundles / "server" / "non_layer_part_00.safetensors"
        heads[name] = np.array(mx.load(str(part))["lm_head.weight"]) if part.exists() else None
    assert (heads[head] is None) == (head == "client")
    if heads[head] is not None:
        same = (heads[head] == heads["server"]).all(axis=1)
        assert same.sum() < 10  # of 151 tokens; a permutation leaves one in its place on average
        rows = [sorted(map(bytes, each)) for each in heads.values()]
        assert rows[0] == rows[1]


def test_every_layer_reads_another_space(converted: tuple[RandomCheckpoint, Path]) -> None:
    model, _ = converted
    key = MasterKey.from_base_seed(BASE_SEED)
    spaces = [
        key.residual_permutation(layer, model.hidden_size, 1).tolist()
        for layer in range(model.num_hidden_layers + 1)
    ]
    assert len({tuple(space) for space in spaces}) == len(spaces)
    assert all(space != np.arange(model.hidden_size).tolist() for space in spaces)
