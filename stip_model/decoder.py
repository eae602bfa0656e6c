"""The permuted decoder. It does not know that it is permuted: it only gathers the residual stream
by `tau`, from one layer's space into the next one's.

Knows nothing about sessions, messages, time or devices. Linear layers run once over the rows of all
sessions of a batch. Attention runs per session, against its own cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stip.v1.manifest_pb2 import ModelConfig
from stip_model.cache.kv_cache import KVCache
from stip_model.operations.operations import Array, LinearWeights, Operations, RopeTables, Span
from stip_model.rope import cosines_and_sines, inverse_frequencies


class Segment(NamedTuple):
    """The rows [start, stop) of a batch, which belong to one session.

    Only those from `keep_from` on are needed after the last layer. With keep_from == stop the step
    only fills the cache.
    """

    cache: KVCache
    start: int
    stop: int
    keep_from: int


class Batch(NamedTuple):
    """What all layers share."""

    segments: Sequence[Segment]
    rope: RopeTables


class Attention:
    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Array], layer: int, operations: Operations
    ) -> None:
        self.operations = operations
        self.layer = layer
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.qkv_proj = operations.linear_weights(tensors, "q_proj", "k_proj", "v_proj")
        self.o_proj = operations.linear_weights(tensors, "o_proj")

    def __call__(self, x: Array, batch: Batch, *, last: bool) -> Array | None:
        """x [rows, hidden_size] to the same; in the last layer to the kept rows, None if none."""
        operations = self.operations
        num_heads, rotated = self.num_heads, self.num_heads + self.num_kv_heads
        qkv = operations.linear(x, self.qkv_proj)
        qkv = qkv.reshape(-1, rotated + self.num_kv_heads, self.head_dim)
        qk = operations.rope(qkv[:, :rotated], batch.rope)
        keys_values = operations.join_keys_values(qk[:, num_heads:], qkv[:, rotated:])

        spans = []
        for cache, start, stop, keep_from in batch.segments:
            storage = cache.write(self.layer, keys_values[start:stop])
            first = keep_from if last else start
            if first < stop:
                spans.append(Span(first, stop, storage, cache.length + stop - start))
        if not spans:
            return None
        attended = operations.attention(qk[:, :num_heads], spans, self.scale)
        return operations.linear(attended, self.o_proj)


class MLP:
    def __init__(self, tensors: Mapping[str, Array], operations: Operations) -> None:
        self.operations = operations
        self.gate_up_proj = operations.linear_weights(tensors, "gate_proj", "up_proj")
        self.down_proj = operations.linear_weights(tensors, "down_proj")

    def __call__(self, x: Array) -> Array:
        gate_up = self.operations.linear(x, self.gate_up_proj)
        return self.operations.linear(self.operations.swiglu(gate_up), self.down_proj)


class TransformerBlock:
    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Array], layer: int, operations: Operations
    ) -> None:
        self.operations = operations
        self.eps = config.rms_norm_eps
        # None where the projections contain it (scheme rotation)
        self.input_layernorm = norm_weight(tensors, "input_layernorm", operations)
        self.post_attention_layernorm = norm_weight(tensors, "post_attention_layernorm", operations)
        # None where the residual stream keeps its space (other schemes than permutation)
        self.tau = tensors.get("tau")
        self.self_attn = Attention(config, _under("self_attn.", tensors), layer, operations)
        self.mlp = MLP(_under("mlp.", tensors), operations)

    def __call__(self, h: Array, batch: Batch, *, last: bool) -> Array | None:
        """h [rows, hidden_size] to the same; in the last layer to the kept rows, None if none."""
        operations = self.operations
        x = operations.rms_norm(h, self.input_layernorm, self.eps)
        attended = self.self_attn(x, batch, last=last)
        if attended is None:
            return None
        if last:
            segments = [each for each in batch.segments if each.keep_from < each.stop]
            h = operations.concatenate([h[each.keep_from : each.stop] for each in segments])
        if self.tau is not None:
            h = operations.gather(h, self.tau)
        h = h + attended
        x = operations.rms_norm(h, self.post_attention_layernorm, self.eps)
        return h + self.mlp(x)

    @property
    def weights(self) -> list[Any]:
        """All weights of the layer, to be evaluated when it is loaded."""
        norms = [self.input_layernorm, self.post_attention_layernorm]
        return [norm for norm in norms if norm is not None] + [
            self.self_attn.qkv_proj,
            self.self_attn.o_proj,
            self.mlp.gate_up_proj,
            self.mlp.down_proj,
        ]


@dataclass
class Model:
    """All layers, the final norm and the head.

    `norm` is None where the head contains it (scheme rotation). Where the client has the head,
    `lm_head` is None, and in scheme rotation `norm` too.
    """

    config: ModelConfig
    operations: Operations
    layers: list[TransformerBlock]
    norm: Array | None
    lm_head: LinearWeights | None

    def __post_init__(self) -> None:
        self._frequencies = inverse_frequencies(self.config.rope_parameters, self.config.head_dim)

    def new_cache(self) -> KVCache:
        """Return an empty cache for one session."""
        return KVCache(self.config, self.operations)

    def __call__(
        self,
        hidden_states: Array,
        segments: Sequence[Segment],
        after_layer: Callable[[Array], None] | None = None,
    ) -> Array | None:
        """Run all layers: hidden_states [rows, hidden_size], each cache with capacity for its rows.

        Returns the residual stream of the kept rows, [kept rows, hidden_size], or None where none
        are kept. Calls `after_layer` with the residual stream after each layer. Changes no cache's
        length. Evaluates nothing itself.
        """
        positions = [
            np.arange(each.cache.length, each.cache.length + each.stop - each.start)
            for each in segments
        ]
        tables = cosines_and_sines(np.concatenate(positions), self._frequencies)
        batch = Batch(segments, self.operations.rope_tables(*tables))
        h = hidden_states
        for layer in self.layers:
            out = layer(h, batch, last=layer is self.layers[-1])
            if out is None:
                return None
            h = out
            if after_layer is not None:
                after_layer(h)
        return h

    def head_outputs(self, h: Array) -> Array:
        """h [rows, hidden_size] to logits [rows, vocab_size].

        Where the client has the head: to the normalised hidden states [rows, hidden_size].
        """
        x = self.operations.rms_norm(h, self.norm, self.config.rms_norm_eps)
        return x if self.lm_head is None else self.operations.linear(x, self.lm_head)


def norm_weight(tensors: Mapping[str, Array], name: str, operations: Operations) -> Array | None:
    """Return the weight of a norm, None where there is none."""
    stored = tensors.get(f"{name}.weight")
    return None if stored is None else operations.norm_weight(stored)


def _under(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
