"""The parties of the robustness tests: a model that can talk for long, and strict servers of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from stip.v1.manifest_pb2 import Manifest
from tests.checkpoints import RandomCheckpoint
from tests.parties import Server, convert, server_process
from tests.robustness.wire import connection, read_manifest

# Wide enough that a step within the limits of rows and bytes can ask for too many logits.
VOCAB_SIZE = 2300
MAX_STEP_ROWS = 8192


def write_talking_checkpoint(folder: Path, *, seed: int = 0, shards: int = 1) -> Path:
    """A tiny checkpoint with a tokenizer (w0 w1 ...), a long context and no token that ends it."""
    checkpoint = RandomCheckpoint(
        vocab_size=VOCAB_SIZE, max_position_embeddings=100_000, seed=seed, shards=shards
    )
    checkpoint.write(folder)
    words = {f"w{token}": token for token in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text('{"eos_token_id": []}')
    return folder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two shards."""
    return write_talking_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", shards=2)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """The bundles of source: read only."""
    return convert(source, tmp_path_factory.mktemp("model") / "bundles")


@pytest.fixture(scope="session")
def manifest(model: Path) -> Manifest:
    return read_manifest(model / "client")


@pytest.fixture(scope="session")
def strict_server(model: Path) -> Iterator[Server]:
    """A server without echo, shared by the tests that leave it alive."""
    options = ("--max-step-rows", MAX_STEP_ROWS)
    # gRPC's own lines would fill a pipe that nobody reads
    with server_process(model / "server", *options, stderr=subprocess.DEVNULL) as server:
        yield server


@pytest.fixture
def channel(strict_server: Server) -> Iterator[grpc.Channel]:
    with connection(strict_server.address) as channel:
        yield channel


@pytest.fixture
def own_server(model: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that a test may kill; they are gone after it."""
    contexts = []

    def start(*arguments: object) -> Server:
        contexts.append(server_process(model / "server", *arguments))
        return contexts[-1].__enter__()

    yield start
    for context in contexts:
        context.__exit__(None, None, None)
