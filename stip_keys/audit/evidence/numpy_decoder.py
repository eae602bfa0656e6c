"""A decoder in NumPy, float32: runs a checkpoint, or a server's bundle, as an attacker would.

It accepts masked bundles: a tau reorders the residual stream, and a norm without a weight only
divides. Weights are read layer by layer. Every layer serves all conversations before the next is
read, so that a model of several billion parameters fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families import architecture
from stip_model.rope import cosines_and_sines, inverse_frequencies

# Layers stay in memory while their sum is below this limit: a small model is read once.
KEEP_BYTES = 512 * 1024**2
# How many alternatives pass through a layer at once.
CHUNK = 1024

Rows = NDArray[np.float32]


@dataclass
class Prefix:
    """The keys and values of the rows of one conversation so far, layer by layer.

    Each layer's are float32 [rows, num_key_value_heads, head_dim].
    """

    length: int = 0
    keys: list[Rows] = field(default_factory=list)
    values: list[Rows] = field(default_factory=list)


class Decoder:
    """A model of `config`'s dimensions whose weights are `tensors`, by Hugging Face's names."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.config = config
        self.tensors = tensors
        self._architecture = architecture(config.model_type)
        self._layers: dict[int, _Layer] = {}
        self._bytes_kept = 0

    def hidden_states(self, conversations: Sequence[NDArray[Any]]) -> Iterator[list[Rows]]:
        """The residual stream after layer 0, 1, …: float32 [rows, hidden_size] a conversation.

        `conversations` are rows as they enter the first layer.
        """
        states = [np.asarray(rows, np.float32) for rows in conversations]
        none_before = [(0, *self._nothing()) for _ in states]
        for index in range(self.config.num_hidden_layers):
            states = self._layer(index).follow(states, none_before)[0]
            yield states

    def scores(self, conversations: Sequence[NDArray[Any]]) -> list[Rows]:
        """The first layer's attention scores, before the causal mask and the softmax.

        Scaled queries times keys, both turned by their positions: float32
        [num_attention_heads, rows, rows] for each conversation.
        """
        layer = self._layer(0)
        found = []
        for rows in conversations:
            queries, keys, _ = layer.project(np.asarray(rows, np.float32), np.arange(len(rows)))
            scores = layer.products(queries, keys)
            found.append(scores.reshape(-1, len(rows), len(rows)))
        return found

    def queries_and_keys(
        self, rows: NDArray[Any], positions: NDArray[np.int64]
    ) -> tuple[Rows, Rows]:
        """The first layer's for rows at positions [rows], turned by these.

        Queries are float32 [rows, num_attention_heads, head_dim] and keys [rows,
        num_key_value_heads, head_dim]; their products over the root of head_dim are the scores.
        """
        queries, keys, _ = self._layer(0).project(np.asarray(rows, np.float32), positions)
        return queries, keys

    def prefix(self) -> Prefix:
        """An empty conversation."""
        nothing = [self._nothing() for _ in range(self.config.num_hidden_layers)]
        return Prefix(0, [keys for keys, _ in nothing], [values for _, values in nothing])

    def extend(self, prefixes: Sequence[Prefix], rows: Sequence[NDArray[Any]]) -> list[Rows]:
        """Let `rows[k]` follow prefixes[k]: the states after the last layer.

        The prefixes keep the rows' keys and values.
        """
        states = [np.asarray(each, np.float32) for each in rows]
        for index in range(self.config.num_hidden_layers):
            before = [(each.length, each.keys[index], each.values[index]) for each in prefixes]
            states, keys, values = self._layer(index).follow(states, before)
            for k, prefix in enumerate(prefixes):
                prefix.keys[index], prefix.values[index] = keys[k], values[k]
        for prefix, each in zip(prefixes, rows, strict=True):
            prefix.length += len(each)
        return states

    def alternatives(
        self,
        prefixes: Sequence[Prefix],
        rows: Sequence[NDArray[Any]],
        depth: int,
        check: Callable[[], None] = lambda: None,
    ) -> list[Rows]:
        """The states after `depth` layers of rows that could each be the next after a prefix.

        `rows[k]` [candidates, hidden_size] are alternatives to each other: each sees prefixes[k]
        and itself. The prefixes do not change. `check` is called every few seconds and may
        raise to end the computation.
        """
        states = [np.array(each, np.float32) for each in rows]
        for index in range(depth):
            layer = self._layer(index)
            for prefix, each in zip(prefixes, states, strict=True):
                for start in range(0, len(each), CHUNK):
                    check()
                    piece = each[start : start + CHUNK]
                    piece[:] = layer.branch(
                        piece, prefix.length, prefix.keys[index], prefix.values[index]
                    )
        return states

    def normalised(self, states: NDArray[Any]) -> Rows:
        """States after the last layer through the final norm, by its weight where there is one."""
        norm = self.tensors.get(self._architecture.final_norm)
        return rms_norm(np.asarray(states, np.float32), norm, self.config.rms_norm_eps)

    def head(self) -> Rows:
        """The output matrix [vocab_size, hidden_size]: the embedding table where they are tied."""
        tied = self.config.tie_word_embeddings and self._architecture.embedding in self.tensors
        name = self._architecture.embedding if tied else self._architecture.head
        return self.tensors[name]

    def _nothing(self) -> tuple[Rows, Rows]:
        shape = (0, self.config.num_key_value_heads, self.config.head_dim)
        return np.empty(shape, np.float32), np.empty(shape, np.float32)

    def _layer(self, index: int) -> _Layer:
        if (kept := self._layers.get(index)) is not None:
            return kept
        prefix = self._architecture.layer_prefix.format(layer=index)
        names = [name for name in self.tensors if name.startswith(prefix)]
        layer = _Layer(
            self.config, {name.removeprefix(prefix): self.tensors[name] for name in names}
        )
        if self._bytes_kept + layer.nbytes <= KEEP_BYTES:
            self._layers[index] = layer
            self._bytes_kept += layer.nbytes
        return layer


class _Layer:
    """One transformer block with its weights in memory."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._config = config
        self._tensors = tensors
        self._frequencies = inverse_frequencies(config.rope_parameters, config.head_dim)
        self._group = config.num_attention_heads // config.num_key_value_heads
        self.nbytes = sum(tensor.nbytes for tensor in tensors.values())

    def follow(
        self, states: list[Rows], before: Sequence[tuple[int, Rows, Rows]]
    ) -> tuple[list[Rows], list[Rows], list[Rows]]:
        """Conversations' next rows after (length, keys, values): new states, all keys and values.

        The matrix products take all conversations' rows at once.
        """
        lengths = [length for length, _, _ in before]
        cuts = np.cumsum([len(rows) for rows in states])[:-1]
        positions = [
            start + np.arange(len(rows)) for start, rows in zip(lengths, states, strict=True)
        ]
        joined = np.concatenate(states)
        projected = self.project(joined, np.concatenate(positions))
        attended, all_keys, all_values = [], [], []
        for start, (_, old_keys, old_values), queries, keys, values in zip(
            lengths, before, *(np.split(each, cuts) for each in projected), strict=True
        ):
            keys = np.concatenate([old_keys, keys])
            values = np.concatenate([old_values, values])
            scores = self.products(queries, keys)
            hidden = np.arange(len(keys)) > start + np.arange(len(queries))[:, None]
            scores[:, :, hidden] = -np.inf
            attended.append(self._weigh(_softmax(scores), values))
            all_keys.append(keys)
            all_values.append(values)
        after = self._finish(joined, np.concatenate(attended))
        return np.split(after, cuts), all_keys, all_values

    def branch(self, rows: Rows, position: int, keys: Rows, values: Rows) -> Rows:
        """Alternative rows at `position`: each sees the keys and values before it, and itself."""
        queries, own_keys, own_values = self.project(rows, np.array([position]))
        grouped = queries.reshape(len(rows), -1, self._group, self._config.head_dim)
        own = np.einsum("cgqd,cgd->gqc", grouped, own_keys)
        own /= np.float32(np.sqrt(self._config.head_dim))
        weights = _softmax(np.concatenate([self.products(queries, keys), own[..., None]], axis=-1))
        attended = self._weigh(weights[..., :-1], values)
        shared = np.einsum("gqc,cgd->cgqd", weights[..., -1], own_values)
        return self._finish(rows, attended + shared.reshape(len(rows), -1))

    def project(
        self, rows: Rows, positions: NDArray[np.int64]
    ) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32]]:
        """Queries, keys and values [rows, heads, head_dim], turned by their positions.

        `positions`: one a row, or one for all.
        """
        head_dim = self._config.head_dim
        x = self._norm(rows, "input_layernorm")
        queries, keys, values = (
            self._linear(x, f"self_attn.{name}_proj").reshape(len(rows), -1, head_dim)
            for name in ("q", "k", "v")
        )
        cosines, sines = cosines_and_sines(positions, self._frequencies)
        return _rope(queries, cosines, sines), _rope(keys, cosines, sines), values

    def products(self, queries: Rows, keys: Rows) -> Rows:
        """Scaled scores [num_key_value_heads, query heads of a group, queries, keys]."""
        rows, head_dim = len(queries), self._config.head_dim
        key_value_heads = keys.shape[1]
        grouped = queries.reshape(rows, key_value_heads, self._group, head_dim)
        stacked = grouped.transpose(1, 2, 0, 3).reshape(key_value_heads, -1, head_dim)
        scores = stacked @ keys.transpose(1, 2, 0) / np.float32(np.sqrt(head_dim))
        return scores.reshape(key_value_heads, self._group, rows, len(keys))

    def _weigh(self, weights: Rows, values: Rows) -> Rows:
        """The values' sums [queries, num_attention_heads * head_dim], by `products`' weights."""
        key_value_heads, group, rows, length = weights.shape
        sums = weights.reshape(key_value_heads, group * rows, length) @ values.transpose(1, 0, 2)
        heads = sums.reshape(key_value_heads, group, rows, values.shape[-1]).transpose(2, 0, 1, 3)
        return heads.reshape(rows, -1)

    def _finish(self, rows: Rows, attended: Rows) -> Rows:
        """The rest of the block: the output projection, the residual and the MLP."""
        tau = self._tensors.get("tau")
        carried = rows if tau is None else rows[:, tau]
        after = carried + self._linear(attended, "self_attn.o_proj")
        x = self._norm(after, "post_attention_layernorm")
        gate = self._linear(x, "mlp.gate_proj")
        with np.errstate(over="ignore"):  # exp overflows where silu is zero
            gate /= 1 + np.exp(-gate)
        after += self._linear(gate * self._linear(x, "mlp.up_proj"), "mlp.down_proj")
        return after

    def _norm(self, rows: Rows, name: str) -> Rows:
        return rms_norm(rows, self._tensors.get(f"{name}.weight"), self._config.rms_norm_eps)

    def _linear(self, rows: Rows, name: str) -> Rows:
        product: Rows = rows @ self._tensors[f"{name}.weight"].T
        bias = self._tensors.get(f"{name}.bias")
        return product if bias is None else product + bias


def rms_norm(rows: Rows, weight: NDArray[Any] | None, eps: float) -> Rows:
    """Rows divided by their root mean square, times a weight where there is one."""
    scale = 1 / np.sqrt(np.mean(rows**2, axis=-1, keepdims=True) + np.float32(eps))
    normalised: Rows = rows * scale
    return normalised if weight is None else normalised * weight


def _rope(heads: Rows, cosines: Rows, sines: Rows) -> Rows:
    """Turn the planes (j, j + head_dim / 2) of heads [rows, heads, head_dim]."""
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )


def _softmax(scores: Rows) -> Rows:
    weights: Rows = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights
