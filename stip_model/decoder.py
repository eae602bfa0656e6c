"""The permuted decoder on MLX. It does not know that it is permuted: only that the residual stream
is carried from one layer's space to the next by `tau`, a gather.

Knows nothing about sessions, messages or time. Linear layers run once over the rows of every
session in a batch; attention runs per session against its own cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.cache.kv_cache import KVCache
from stip_model.operations.attention import Span
from stip_model.operations.operations import PLAIN, Operations
from stip_model.operations.products import padded, product
from stip_model.rope import cosines_and_sines, inverse_frequencies


class Segment(NamedTuple):
    """The rows of a batch that belong to one session: hidden_states[start:stop].

    Only the rows from `keep` on are wanted after the last layer; keep == stop wants none, and the
    step then only fills the cache.
    """

    cache: KVCache
    start: int
    stop: int
    keep: int


class Batch(NamedTuple):
    """What every layer shares: the sessions' segments, and the RoPE rotation of every row."""

    segments: Sequence[Segment]
    cosines: mx.array  # [rows, 1, head_dim / 2]
    sines: mx.array
    operations: Operations


class Linear:
    """y = x W^T + b for one or several projections of the same input, stacked: weight [out, in],
    padded (products.py)."""

    def __init__(self, weights: Mapping[str, mx.array], *names: str) -> None:
        self.weight = padded(_stack([weights[f"{name}.weight"] for name in names]))
        biases = [weights.get(f"{name}.bias") for name in names]
        self.bias = _stack([bias for bias in biases if bias is not None])

    def __call__(self, x: mx.array) -> mx.array:
        return product(x, self.weight, self.bias if self.bias.size else None)

    @property
    def arrays(self) -> list[mx.array]:
        return [self.weight, self.bias]


class Attention:
    def __init__(self, config: ModelConfig, weights: Mapping[str, mx.array], layer: int) -> None:
        self.layer = layer
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.qkv_proj = Linear(weights, "q_proj", "k_proj", "v_proj")
        self.o_proj = Linear(weights, "o_proj")

    def __call__(self, x: mx.array, batch: Batch, *, last: bool) -> mx.array | None:
        """x [rows, hidden_size] to the same, in the last layer to the kept rows, None if none."""
        rows, rotated = x.shape[0], self.num_heads + self.num_kv_heads
        qkv = self.qkv_proj(x).reshape(rows, rotated + self.num_kv_heads, self.head_dim)
        qk = batch.operations.rotate(qkv[:, :rotated], batch.cosines, batch.sines)
        # [2, key/value heads, rows, head_dim]
        keys_values = mx.stack([qk[:, self.num_heads :], qkv[:, rotated:]]).swapaxes(1, 2)

        spans = []
        for cache, start, stop, keep in batch.segments:
            all_keys, all_values = cache.update(self.layer, keys_values[:, :, start:stop])
            first = keep if last else start
            if first < stop:
                spans.append(Span(first, stop, all_keys, all_values))
        if not spans:
            return None
        return self.o_proj(batch.operations.attend(qk[:, : self.num_heads], spans, self.scale))


class MLP:
    def __init__(self, weights: Mapping[str, mx.array]) -> None:
        self.gate_up_proj = Linear(weights, "gate_proj", "up_proj")
        self.down_proj = Linear(weights, "down_proj")

    def __call__(self, x: mx.array, batch: Batch) -> mx.array:
        return self.down_proj(batch.operations.swiglu(self.gate_up_proj(x)))


class TransformerBlock:
    def __init__(self, config: ModelConfig, weights: Mapping[str, mx.array], layer: int) -> None:
        self.eps = config.rms_norm_eps
        # None where they were folded into the projections (scheme rotation).
        self.input_layernorm = weights.get("input_layernorm.weight")
        self.post_attention_layernorm = weights.get("post_attention_layernorm.weight")
        # Without tau (other schemes than permutation) the residual stream keeps its space.
        self.tau = weights.get("tau")
        self.self_attn = Attention(config, _under("self_attn.", weights), layer)
        self.mlp = MLP(_under("mlp.", weights))

    def __call__(self, h: mx.array, batch: Batch, *, last: bool) -> mx.array | None:
        """h [rows, hidden_size] to the same, in the last layer to the kept rows, None if none."""
        x = mx.fast.rms_norm(h, self.input_layernorm, self.eps)
        attended = self.self_attn(x, batch, last=last)
        if attended is None:
            return None
        if last:
            h = _kept_rows(h, batch.segments)
        if self.tau is not None:
            h = mx.take(h, self.tau, axis=-1)
        h = h + attended
        x = mx.fast.rms_norm(h, self.post_attention_layernorm, self.eps)
        return h + self.mlp(x, batch)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of the layer, to be evaluated when it is loaded."""
        linears = (
            self.self_attn.qkv_proj,
            self.self_attn.o_proj,
            self.mlp.gate_up_proj,
            self.mlp.down_proj,
        )
        norms = [self.input_layernorm, self.post_attention_layernorm]
        return [norm for norm in norms if norm is not None] + [
            array for linear in linears for array in linear.arrays
        ]


@dataclass
class Model:
    """All layers, the final norm and the head.

    `norm` is None where it was folded into the head, and with `lm_head` None where both are the
    client's.
    """

    config: ModelConfig
    dtype: mx.Dtype
    layers: list[TransformerBlock]
    norm: mx.array | None
    lm_head: mx.array | None  # [vocab_size, hidden_size], padded
    operations: Operations = PLAIN
    head_rows: int = 64  # that `logits` should be given at once

    def __post_init__(self) -> None:
        self._frequencies = inverse_frequencies(self.config.rope_parameters, self.config.head_dim)

    def new_cache(self) -> KVCache:
        """An empty cache that fits this model."""
        config = self.config
        return KVCache(
            config.num_hidden_layers, config.num_key_value_heads, config.head_dim, self.dtype
        )

    def __call__(
        self,
        hidden_states: mx.array,
        segments: Sequence[Segment],
        after_layer: Callable[[mx.array], None] | None = None,
    ) -> mx.array | None:
        """Run every layer: hidden_states [rows, hidden_size], each cache having room for its rows.

        Returns the final hidden states of the kept rows, [kept rows, hidden_size], or None where
        none are kept: `logits` takes them on.
        What it evaluates is left to `operations` and to `after_layer`, which is given the residual
        stream after each layer. No cache's length changes.
        """
        positions = np.concatenate(
            [
                np.arange(cache.length, cache.length + stop - start)
                for cache, start, stop, _ in segments
            ]
        )
        cosines, sines = self._rotations(positions)
        batch = Batch(segments, cosines, sines, self.operations)
        h = hidden_states.astype(self.dtype)
        for layer in self.layers:
            out = layer(h, batch, last=layer is self.layers[-1])
            if out is None:
                return None
            h = out
            if after_layer is not None:
                after_layer(h)
        return h

    def answers(self, h: mx.array) -> mx.array:
        """Final hidden states [rows, hidden_size] to what answers them: logits [rows, vocab_size],
        or where the client has the head the normalised states [rows, hidden_size]."""
        x = mx.fast.rms_norm(h, self.norm, self.config.rms_norm_eps)
        return x if self.lm_head is None else product(x, self.lm_head)

    def _rotations(self, positions: NDArray[np.int64]) -> tuple[mx.array, mx.array]:
        cosines, sines = cosines_and_sines(positions, self._frequencies)
        return mx.array(cosines), mx.array(sines)


def _kept_rows(h: mx.array, segments: Sequence[Segment]) -> mx.array:
    kept = [h[keep:stop] for _, _, stop, keep in segments if keep < stop]
    return kept[0] if len(kept) == 1 else mx.concatenate(kept)


def _stack(arrays: list[mx.array]) -> mx.array:
    if not arrays:
        return mx.zeros((0,))
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays)


def _under(prefix: str, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    return {
        name.removeprefix(prefix): array
        for name, array in weights.items()
        if name.startswith(prefix)
    }
