"""Computes one iteration: the chunks of several sessions through the model, and their logits.

Called on the engine's thread only. Knows neither queues nor callers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import groupby
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip_server.cache import KVCache
from stip_server.errors import StartError
from stip_server.model import Model, Segment
from stip_server.steps import Chunk, StepLogits

# Rows of the steps that are computed before the first client may come; the last one is timed.
WARM_UP_ROWS = (1, 16, 16)

# Is given what was just computed, so that an iteration that takes long shows its progress.
Progress = Callable[[mx.array], None]


def warm_up(model: Model) -> float:
    """Compute a token and short prompts; the seconds that the last one took.

    What a device compiles at first use takes its time now, not while a heartbeat is waited for, and
    what it cannot compute shows. Raises StartError.
    """
    seconds = 0.0
    for rows in WARM_UP_ROWS:
        cache = model.new_cache()
        began = perf_counter()
        try:
            cache.reserve(rows)
            hidden_states = mx.zeros((rows, model.config.hidden_size))
            kept = model(hidden_states, [Segment(cache, 0, rows, rows - 1)])
            mx.eval(None if kept is None else model.logits(kept))
        except Exception as error:
            raise StartError(f"the device cannot run the model: {error}") from error
        seconds = perf_counter() - began
    return seconds


def forward(
    model: Model,
    runnable: Sequence[tuple[Chunk, KVCache]],
    after_layer: Progress | None,
) -> list[list[StepLogits]]:
    """Run the chunks of one batch and move their caches on.

    Returns the logits that each chunk wants, in parts: together they would exist twice.
    """
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
    kept = model(hidden_states, segments, after_layer)

    found = {} if kept is None else _answers(model, kept, [c for c, _ in runnable], after_layer)
    mx.eval([cache.arrays for _, cache in runnable])
    for chunk, cache in runnable:
        cache.length += chunk.num_rows
    return [found.get(chunk, []) for chunk, _ in runnable]


def _answers(
    model: Model, kept: mx.array, chunks: Sequence[Chunk], progress: Progress | None
) -> dict[Chunk, list[StepLogits]]:
    """The logits of the chunks that want some; `kept` holds the rows that they want, in order.

    Chunks that ask for the same form one after the other are answered together: fewer launches on a
    GPU. But at most head_rows rows at once: logits are as wide as the vocabulary.
    """
    found: dict[Chunk, list[StepLogits]] = defaultdict(list)
    first = 0
    wanting = (chunk for chunk in chunks if chunk.wanted_rows)
    for (top_k, half_precision), group in groupby(wanting, key=_form):
        shares = []
        stop = first
        for chunk in group:
            shares.append((chunk, stop, stop + chunk.wanted_rows))
            stop += chunk.wanted_rows
        for start in range(first, stop, model.head_rows):
            logits = model.logits(kept[start : min(start + model.head_rows, stop)])
            block = _answer(model, logits, top_k, half_precision)
            if progress is not None:
                progress(logits)
            for chunk, begin, end in shares:
                part = slice(max(0, begin - start), max(0, end - start))
                if len(block[0][part]):
                    found[chunk].append(_as_bytes([array[part] for array in block]))
        first = stop
    return found


def _form(chunk: Chunk) -> tuple[int, bool]:
    return chunk.step.top_k, chunk.step.half_precision


def _answer(
    model: Model, logits: mx.array, top_k: int, half_precision: bool
) -> tuple[NDArray[Any], ...]:
    """(values,) of the whole vocabulary, or (values, indices, log_sum_exp) of the top k."""
    if top_k == 0:
        return (np.asarray(logits.astype(mx.float16 if half_precision else mx.float32)),)
    found = model.operations.top_k(logits.astype(mx.float32), top_k)
    mx.eval(found)
    values, indices, log_sum_exp = map(np.asarray, found)
    return values.astype(np.float16 if half_precision else np.float32), indices, log_sum_exp


def _as_bytes(arrays: Sequence[NDArray[Any]]) -> StepLogits:
    """values, and with a top k indices and log_sum_exp, as they are sent."""
    rows, width = arrays[0].shape
    return StepLogits(rows, width, *(array.tobytes() for array in arrays))


def _concatenate(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of one dtype; of several, in float32, which holds every wire type exactly."""
    if len({each.dtype for each in rows}) > 1:
        rows = [each.astype(np.float32) for each in rows]
    return np.concatenate(rows)
