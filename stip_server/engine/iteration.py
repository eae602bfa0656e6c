"""Computes one iteration: the chunks of several sessions through the model, and their logits.

Called on the engine's thread only. Knows neither queues nor callers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip_model.cache.kv_cache import KVCache
from stip_model.decoder import Model, Segment
from stip_server.engine.step import Chunk, StepLogits
from stip_server.errors import StartError

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
            mx.eval(None if kept is None else model.answers(kept))
        except Exception as error:
            raise StartError(f"the device cannot run the model: {error}") from error
        seconds = perf_counter() - began
    return seconds


def forward(
    model: Model,
    runnable: Sequence[tuple[Chunk, KVCache]],
    alive: Callable[[], None] = lambda: None,
    after_layer: Progress | None = None,
) -> list[list[StepLogits]]:
    """Run the chunks of one batch and move their caches on.

    `alive` is called after each layer that is copied to make room, `after_layer` with what each
    layer has computed. Returns the logits that each chunk wants, in parts: together they would
    exist twice.
    """
    # what is answered in one form lies side by side
    ordered = sorted(runnable, key=lambda each: _form(each[0]))
    segments = []
    start = 0
    for chunk, cache in ordered:
        cache.length = chunk.position  # the rollback
        for _ in cache.make_room(chunk.position, chunk.num_rows):
            alive()
        stop = start + chunk.num_rows
        segments.append(Segment(cache, start, stop, stop - chunk.wanted_rows))
        start = stop
    rows = [chunk.step.hidden_states[chunk.start : chunk.stop] for chunk, _ in ordered]
    hidden_states = mx.array(rows[0] if len(rows) == 1 else _concatenate(rows))
    kept = model(hidden_states, segments, after_layer)

    found = {} if kept is None else _answers(model, kept, [c for c, _ in ordered], after_layer)
    mx.eval([cache.arrays for _, cache in runnable])
    for chunk, cache in runnable:
        cache.length += chunk.num_rows
    return [found.get(chunk, []) for chunk, _ in runnable]


def _answers(
    model: Model, kept: mx.array, chunks: Sequence[Chunk], progress: Progress | None
) -> dict[Chunk, list[StepLogits]]:
    """The logits of the chunks that want some; `kept` holds the rows that they want, in order.

    The head's weights are read once for all, whatever forms are asked for; but at most head_rows
    rows are computed at once: logits are as wide as the vocabulary.
    """
    wanting = [chunk for chunk in chunks if chunk.wanted_rows]
    # the rows of each chunk: from its start to the next one's
    starts = [0, *accumulate(chunk.wanted_rows for chunk in wanting)]
    found: dict[Chunk, list[StepLogits]] = defaultdict(list)
    for first in range(0, starts[-1], model.head_rows):
        logits = model.answers(kept[first : min(first + model.head_rows, starts[-1])])
        if progress is not None:
            progress(logits)
        shares = [
            (chunk, max(0, start - first), min(stop - first, len(logits)))
            for chunk, start, stop in zip(wanting, starts, starts[1:], strict=False)
            if start < first + len(logits) and stop > first
        ]
        for form, group in groupby(shares, key=lambda share: _form(share[0])):
            members = list(group)
            begin, end = members[0][1], members[-1][2]
            block = _answer(model, logits[begin:end], *form)
            for chunk, start, stop in members:
                rows = slice(start - begin, stop - begin)
                found[chunk].append(_as_bytes([array[rows] for array in block]))
    return found


def _form(chunk: Chunk) -> tuple[int, bool]:
    """(top_k, half_precision): what makes the logits of two chunks computable together."""
    return chunk.step.form.top_k, chunk.step.form.half_precision


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
