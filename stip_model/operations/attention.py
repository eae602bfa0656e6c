"""Scaled dot-product attention of several sessions, each against its own keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

# Rows that are computed at once on a CPU: their scores stay in its cache.
BLOCK_ROWS = 32
# Sessions, and scores of theirs, with which MLX is done in the time that evaluating them takes.
FEW_SPANS = 4
FEW_SCORES = 8192


class Span(NamedTuple):
    """The rows [start, stop) of a batch, which are one session's latest, and what they attend to:
    keys and values [1, num_key_value_heads, length, head_dim], the rows' own included."""

    start: int
    stop: int
    keys: mx.array
    values: mx.array


def attend(queries: mx.array, spans: Sequence[Span], scale: float) -> mx.array:
    """queries [rows, num_heads, head_dim] to [rows of the spans, num_heads * head_dim].

    A session at a time, over its cache where it lies. Measured on a CPU (two cores, 24 layers of 14
    heads and 2 key/value heads of 64, float32), ms an iteration of 8 sessions with 64 / 512 / 2,048
    tokens each: so 10 / 43 / 143; padded into one batch by copying 9 / 52 / 173; if they happened
    to lie in one array 6 / 36 / 140, which would give up growing, forking and freeing each by
    itself. On a GPU each launch costs: keys and values in one array halve those for writing.
    """
    outputs = []
    for start, stop, keys, values in spans:
        attended = mx.fast.scaled_dot_product_attention(
            queries[None, start:stop].swapaxes(1, 2),
            keys,
            values,
            scale=scale,
            mask="causal" if stop - start > 1 else None,
        )
        outputs.append(attended.swapaxes(1, 2).reshape(stop - start, -1))
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)


def attend_on_host(queries: mx.array, spans: Sequence[Span], scale: float) -> mx.array:
    """The same in float32 by NumPy, which has a vector exp where MLX's CPU kernels have a scalar
    one, and skips what the causal mask hides. Everything is evaluated, unless there is so little
    that this would take longer than it saves.

    Measured as above (Xeon with AVX-512), ms a layer: 8 sessions of 45 tokens 0.40 instead of 0.71;
    512 rows of one session 6.6 instead of 57, after 1,536 tokens 32 instead of 251.
    """
    scores = sum(each.keys.shape[2] * (each.stop - each.start) for each in spans)
    if len(spans) < FEW_SPANS and scores * queries.shape[1] < FEW_SCORES:
        return attend(queries, spans, scale)
    mx.eval(queries, [(keys, values) for _, _, keys, values in spans])
    on_host = np.asarray(queries).swapaxes(0, 1) * np.float32(scale)
    outputs = [
        _attend(on_host[:, start:stop], np.asarray(keys)[0], np.asarray(values)[0])
        for start, stop, keys, values in spans
    ]
    return mx.array(outputs[0] if len(outputs) == 1 else np.concatenate(outputs))


def _attend(queries: NDArray[Any], keys: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float32]:
    """queries [num_heads, rows, head_dim], scaled, to [rows, num_heads * head_dim]."""
    num_heads, rows, head_dim = queries.shape
    num_kv_heads, length, _ = keys.shape
    output = np.empty((rows, num_heads, head_dim), np.float32)
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, rows)
        visible = length - rows + stop
        # the query heads of one key/value head as rows of one product
        grouped = queries[:, start:stop].reshape(num_kv_heads, -1, head_dim)
        scores = grouped @ keys[:, :visible].swapaxes(1, 2)
        if stop - start > 1:
            square = scores.reshape(num_heads, stop - start, visible)[..., start - stop :]
            square += np.triu(np.full(square.shape[1:], -np.inf, np.float32), 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=-1, keepdims=True)
        attended = scores @ values[:, :visible]
        attended /= sums
        block = attended.reshape(num_heads, stop - start, head_dim)
        output[start:stop] = block.swapaxes(0, 1)
    return output.reshape(rows, -1)
