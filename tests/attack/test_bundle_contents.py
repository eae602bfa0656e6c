"""What an attacker finds in the server's bundle: no key, no embedding row in plain order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stip_keys import derivation
from stip_keys.keyfile import read_client_key
from stip_keys.keys import MasterKey
from tests.checkpoints import RandomCheckpoint
from tests.models import MODELS
from tests.parties import BASE_SEED, make_model


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
        derivation.residual_block_label(layer, block)
        for layer in range(model.num_hidden_layers + 1)
        for block in range(model.hidden_size)
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


def test_every_layer_reads_another_space(converted: tuple[RandomCheckpoint, Path]) -> None:
    model, _ = converted
    key = MasterKey.from_base_seed(BASE_SEED)
    spaces = [
        key.residual_permutation(layer, model.hidden_size, 1).tolist()
        for layer in range(model.num_hidden_layers + 1)
    ]
    assert len({tuple(space) for space in spaces}) == len(spaces)
    assert all(space != np.arange(model.hidden_size).tolist() for space in spaces)
