"""The random checkpoints that are measured, written piece by piece in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tests.support.models.random_checkpoint import DTYPES, RandomCheckpoint

SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# A prime: rows of a weight are windows into the repeated values, and no two of them are equal.
BLOCK_LENGTH = 1_000_003


@dataclass
class StreamedCheckpoint(RandomCheckpoint):
    """A Qwen2 checkpoint with a tied head whose values repeat one random block.

    The values matter to no measurement; they are finite, of ordinary size and no two tokens are
    alike, so that both sides do the same work and choose the same tokens.
    """

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's name and shape."""
        hidden, inner = self.hidden_size, self.intermediate_size
        head_dim = self.head_dim or hidden // self.num_attention_heads
        query, key_value = self.num_attention_heads * head_dim, self.num_key_value_heads * head_dim
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        yield "model.norm.weight", (hidden,)
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (hidden,)
            yield prefix + "post_attention_layernorm.weight", (hidden,)
            for name, rows in (("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)):
                yield f"{prefix}self_attn.{name}.weight", (rows, hidden)
                yield f"{prefix}self_attn.{name}.bias", (rows,)
            yield prefix + "self_attn.o_proj.weight", (hidden, query)
            yield prefix + "mlp.gate_proj.weight", (inner, hidden)
            yield prefix + "mlp.up_proj.weight", (inner, hidden)
            yield prefix + "mlp.down_proj.weight", (hidden, inner)

    def write(self, folder: Path) -> Path:
        """Write config.json and the weights, as RandomCheckpoint does, holding one block."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        shapes = dict(self.shapes())
        block = np.random.default_rng(self.seed).standard_normal(BLOCK_LENGTH, dtype=np.float32)
        weight_map: dict[str, str] = {}
        for shard in range(self.shards):
            file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            part = {name: shapes[name] for name in list(shapes)[shard :: self.shards]}
            with (folder / file).open("xb") as stream:
                self._write_shard(stream, part, block)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    def _write_shard(
        self, stream: BinaryIO, shapes: dict[str, tuple[int, ...]], block: NDArray[np.float32]
    ) -> None:
        dtype = np.dtype(DTYPES[self.dtype])
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": SAFETENSORS_NAMES[self.dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        stream.write(len(text).to_bytes(8, "little") + text)
        position = 0
        for name, shape in shapes.items():
            values = _scaled(name, shape, block).astype(dtype)
            left = prod(shape)
            while left:
                piece = values[position : position + left]
                stream.write(piece.view(np.uint8).data)
                left -= len(piece)
                position = (position + len(piece)) % BLOCK_LENGTH


def _scaled(name: str, shape: tuple[int, ...], block: NDArray[np.float32]) -> NDArray[np.float32]:
    """The block at the scale that keeps activations of order one: norms are positive."""
    if name.endswith("norm.weight"):
        return (np.abs(block) + np.float32(1)) / np.float32(2)
    if len(shape) == 2 and not name.endswith("embed_tokens.weight"):
        return block / np.float32(np.sqrt(shape[1]))
    return block


QWEN_0_5B = StreamedCheckpoint(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    dtype="bfloat16",
    max_position_embeddings=4096,
)
QWEN_3B = StreamedCheckpoint(
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    vocab_size=151936,
    dtype="bfloat16",
    shards=2,
    max_position_embeddings=4096,
)
# stands in for the demo model where the package does not hold one
DEMO = StreamedCheckpoint(
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=1536,
    dtype="float16",
)
