"""Computes one iteration: the chunks of several sessions through the model, and their logits.

Runs on the engine's thread. Knows neither queues nor callers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_model.cache.kv_cache import KVCache
from stip_model.decoder import Model, Segment
from stip_model.operations.operations import Array
from stip_server.engine.iteration_pace import HEAD_ROWS
from stip_server.engine.step import Chunk, LogitsForm, Step, StepLogits, WantedRows
from stip_server.errors import StartError

# Rows of the steps that are computed before the first client may come; the last one is timed.
WARM_UP_ROWS = (1, 16, 16)

# Is called with what was just computed, so that a long iteration shows its progress.
Progress = Callable[[Array], None]


def warm_up(model: Model) -> float:
    """Compute a token and two short prompts. Return the seconds that the last one took.

    The device then compiles what it compiles at first use before the engine must show that it
    lives. Raises StartError for a model that the device cannot compute.
    """
    seconds = 0.0
    form = LogitsForm(WantedRows.LAST, top_k=0, half_precision=False)
    for rows in WARM_UP_ROWS:
        hidden_states = np.zeros((rows, model.config.hidden_size), np.float32)
        step = Step(b"", 0, hidden_states, form, deliver=lambda _: None)
        began = perf_counter()
        try:
            forward(model, [(Chunk(step, 0, rows), model.new_cache())])
        except Exception as error:
            raise StartError(f"the device cannot run the model: {error}") from error
        seconds = perf_counter() - began
    return seconds


def forward(
    model: Model,
    chunks: Sequence[tuple[Chunk, KVCache]],
    beat: Callable[[], None] = lambda: None,
    after_layer: Progress | None = None,
    head_rows: int = HEAD_ROWS,
) -> list[list[StepLogits]]:
    """Compute one iteration's chunks, and add their rows to their caches.

    Calls `beat` after each layer of keys and values that it copies, `after_layer` with the output
    of each layer and of the head. The head computes at most `head_rows` rows at once. Returns the
    logits of each chunk, in parts: joined they would exist twice.
    """
    # chunks of one form are neighbours, so that their logits are computed together
    ordered = sorted(chunks, key=lambda each: _form(each[0]))
    segments = []
    start = 0
    for chunk, cache in ordered:
        cache.length = chunk.position  # the rollback
        for _ in cache.ensure_capacity(chunk.position, chunk.num_rows):
            beat()
        stop = start + chunk.num_rows
        segments.append(Segment(cache, start, stop, stop - chunk.wanted_rows))
        start = stop
    rows = _concatenate([each.step.hidden_states[each.start : each.stop] for each, _ in ordered])
    kept = model(model.operations.from_host(rows), segments, after_layer)

    found: dict[Chunk, list[StepLogits]] = {}
    if kept is not None:
        wanting = [chunk for chunk, _ in ordered if chunk.wanted_rows]
        found = _logits(model, kept, wanting, after_layer, head_rows)
    model.operations.evaluate([cache.layers for _, cache in chunks])
    for chunk, cache in chunks:
        cache.length += chunk.num_rows
    return [found.get(chunk, []) for chunk, _ in chunks]


def _logits(
    model: Model, kept: Array, chunks: Sequence[Chunk], progress: Progress | None, head_rows: int
) -> dict[Chunk, list[StepLogits]]:
    """Return the logits of chunks; `kept` holds the rows that they want, in order.

    The head's weights are read once for all forms, but logits are as wide as the vocabulary.
    """
    # the rows of each chunk: from its start to the next one's
    starts = [0, *accumulate(chunk.wanted_rows for chunk in chunks)]
    found: dict[Chunk, list[StepLogits]] = defaultdict(list)
    for first in range(0, starts[-1], head_rows):
        block = model.head_outputs(kept[first : min(first + head_rows, starts[-1])])
        if progress is not None:
            progress(block)
        rows = block.shape[0]
        shares = [
            (chunk, max(0, start - first), min(stop - first, rows))
            for chunk, start, stop in zip(chunks, starts, starts[1:], strict=False)
            if start < first + rows and stop > first
        ]
        for form, group in groupby(shares, key=lambda share: _form(share[0])):
            members = list(group)
            begin, end = members[0][1], members[-1][2]
            arrays = _in_form(model, block[begin:end], *form)
            for chunk, start, stop in members:
                share = [array[start - begin : stop - begin] for array in arrays]
                found[chunk].append(_as_bytes(share))
    return found


def _form(chunk: Chunk) -> tuple[int, bool]:
    """(top_k, half_precision): chunks that agree in these are answered from one computation."""
    return chunk.step.form.top_k, chunk.step.form.half_precision


def _in_form(
    model: Model, logits: Array, top_k: int, half_precision: bool
) -> tuple[NDArray[Any], ...]:
    """Return (values,) of the whole vocabulary, or (values, indices, log_sum_exp) of the top k."""
    dtype = np.float16 if half_precision else np.float32
    if top_k == 0:
        return (model.operations.to_host(logits, dtype),)
    values, indices, log_sum_exp = model.operations.top_k(logits, top_k)
    return values.astype(dtype), indices, log_sum_exp


def _as_bytes(arrays: Sequence[NDArray[Any]]) -> StepLogits:
    """Return values, and with a top k indices and log_sum_exp, as they are sent."""
    rows, width = arrays[0].shape
    return StepLogits(rows, width, *(array.tobytes() for array in arrays))


def _concatenate(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of one dtype; of several, in float32, which holds every wire type exactly."""
    if len(rows) == 1:
        return rows[0]
    if len({each.dtype for each in rows}) > 1:
        rows = [each.astype(np.float32) for each in rows]
    return np.concatenate(rows)
