"""Computes one iteration: the chunks of several sessions through the model, and their logits.

Called on the engine's thread only. Knows neither queues nor callers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip_server.cache import KVCache
from stip_server.errors import StartError
from stip_server.model import Model, Segment
from stip_server.steps import Chunk, StepLogits

# Rows of the steps that are computed before the first client may come.
WARM_UP_ROWS = (1, 16)


def warm_up(model: Model) -> None:
    """Compute a token and a short prompt: what a device compiles at first use takes its time now,
    not while a heartbeat is waited for, and what it cannot compute shows. Raises StartError.
    """
    for rows in WARM_UP_ROWS:
        cache = model.new_cache()
        try:
            cache.reserve(rows)
            hidden_states = mx.zeros((rows, model.config.hidden_size))
            mx.eval(model(hidden_states, [Segment(cache, 0, rows, rows - 1)]))
        except Exception as error:
            raise StartError(f"the device cannot run the model: {error}") from error


def forward(
    model: Model,
    runnable: Sequence[tuple[Chunk, KVCache]],
    after_layer: Callable[[mx.array], None] | None,
) -> list[StepLogits | None]:
    """Run the chunks of one batch and move their caches on; the logits that each chunk wants."""
    segments = []
    start = 0
    for chunk, cache in runnable:
        cache.length = chunk.position  # the rollback
        cache.reserve(chunk.num_rows)
        stop = start + chunk.num_rows
        segments.append(Segment(cache, start, stop, stop - chunk.wanted_rows))
        start = stop
    rows = [chunk.step.hidden_states[chunk.start : chunk.stop] for chunk, _ in runnable]
    hidden_states = mx.array(rows[0] if len(rows) == 1 else _concatenate(rows))
    logits = model(hidden_states, segments, after_layer)

    answers = [] if logits is None else _answers(logits, [chunk for chunk, _ in runnable])
    mx.eval([arrays for _, arrays in answers], [cache.arrays for _, cache in runnable])
    for chunk, cache in runnable:
        cache.length += chunk.num_rows
    found = {chunk: part for chunks, arrays in answers for chunk, part in _split(chunks, arrays)}
    return [found.get(chunk) for chunk, _ in runnable]


def _answers(
    logits: mx.array, chunks: Sequence[Chunk]
) -> list[tuple[list[Chunk], tuple[mx.array, ...]]]:
    """Chunks that ask for the same form one after the other, and the answer to all of them.

    `logits` holds the rows that the chunks want. One answer for many is fewer launches on a GPU.
    """
    answers = []
    first = 0
    wanting = (chunk for chunk in chunks if chunk.wanted_rows)
    for (top_k, half_precision), group in groupby(wanting, key=_form):
        members = list(group)
        stop = first + sum(chunk.wanted_rows for chunk in members)
        answers.append((members, _answer(logits[first:stop], top_k, half_precision)))
        first = stop
    return answers


def _form(chunk: Chunk) -> tuple[int, bool]:
    return chunk.step.top_k, chunk.step.half_precision


def _answer(logits: mx.array, top_k: int, half_precision: bool) -> tuple[mx.array, ...]:
    """(values,) of the whole vocabulary, or (values, indices, log_sum_exp) of the top k."""
    logits = logits.astype(mx.float32)
    dtype = mx.float16 if half_precision else mx.float32
    if top_k == 0:
        return (logits.astype(dtype),)
    if top_k == 1:
        indices = mx.argmax(logits, axis=-1, keepdims=True)
    else:
        largest = mx.argpartition(-logits, top_k - 1, axis=-1)[:, :top_k]
        order = mx.argsort(-mx.take_along_axis(logits, largest, axis=-1), axis=-1)
        indices = mx.take_along_axis(largest, order, axis=-1)
    values = mx.take_along_axis(logits, indices, axis=-1)
    return values.astype(dtype), indices.astype(mx.int32), mx.logsumexp(logits, axis=-1)


def _split(chunks: Sequence[Chunk], arrays: tuple[mx.array, ...]) -> list[tuple[Chunk, StepLogits]]:
    """Each chunk's rows of an answer."""
    on_host = [np.asarray(array) for array in arrays]
    width = on_host[0].shape[1]
    parts = []
    first = 0
    for chunk in chunks:
        stop = first + chunk.wanted_rows
        values = (array[first:stop].tobytes() for array in on_host)
        parts.append((chunk, StepLogits(chunk.wanted_rows, width, *values)))
        first = stop
    return parts


def _concatenate(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of one dtype; of several, in float32, which holds every wire type exactly."""
    if len({each.dtype for each in rows}) > 1:
        rows = [each.astype(np.float32) for each in rows]
    return np.concatenate(rows)
