"""Models that are a table, behind the interface that a generation is driven through: no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from stip_client.session.forward_call import ForwardResult
from stip_client.session.generation import Generation, NextStep, Piece
from stip_client.transport.step_profile import StepProfile
from stip_client.transport.wire_tensors import LogitsArrays

# The logits that follow some tokens: float32 [vocab_size].
Model = Callable[[Sequence[int]], NDArray[np.float32]]
# The profile of a step.
Cost = Callable[[NextStep], StepProfile]


def free(step: NextStep) -> StepProfile:
    """A step that takes a millisecond, whatever it carries."""
    return StepProfile(rows=len(step.token_ids), client=0.0, wire=1e-3, queue=0.0, compute=0.0)


def answer(model: Model, tokens: Sequence[int], step: NextStep) -> ForwardResult:
    """What a server answers to a step after some tokens."""
    every = [*tokens, *step.token_ids]
    rows = step.drafted + 1
    logits = np.stack([model(every[: len(every) - rows + 1 + row]) for row in range(rows)])
    k = step.form.top_k
    if not k:
        return ForwardResult(
            LogitsArrays(logits.astype(step.form.dtype).astype(np.float32)), free(step)
        )
    indices = np.argsort(-logits, axis=-1, kind="stable")[:, :k].astype(np.int32)
    sums = np.log(np.exp(logits.astype(np.float64)).sum(-1)).astype(np.float32)
    return ForwardResult(
        LogitsArrays(np.take_along_axis(logits, indices, -1), indices, sums), free(step)
    )


def drive(
    generation: Generation, model: Model, *, room: int = 10**6, cost: Cost = free
) -> tuple[list[Piece], list[NextStep]]:
    """Every piece of a generation, and the steps that it took."""
    tokens: list[int] = []
    pieces, steps = [], []
    while (step := generation.next_step(len(tokens), room)) is not None:
        steps.append(step)
        reply = answer(model, tokens, step)
        found, kept = generation.add_result(ForwardResult(reply.logits, cost(step)))
        tokens += step.token_ids[:kept]
        pieces += found
    return pieces, steps
