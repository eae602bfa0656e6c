"""OpenAI's penalties and logit_bias as logits processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stip_client.gateway.errors import invalid
from stip_client.sampling.parameters import LogitsProcessor

Logits = NDArray[np.float32]


def processors(
    *,
    presence_penalty: float,
    frequency_penalty: float,
    logit_bias: Mapping[int, float],
    prompt_length: int,
    vocab_size: int,
) -> tuple[LogitsProcessor, ...]:
    """The processors that change anything. Raises ApiError for a bias of an unknown token."""
    wanted: list[LogitsProcessor] = []
    if presence_penalty or frequency_penalty:
        wanted.append(penalise_generated(prompt_length, presence_penalty, frequency_penalty))
    if logit_bias:
        if max(logit_bias) >= vocab_size:
            invalid("logit_bias", f"logit_bias: the model has {vocab_size} tokens")
        wanted.append(add_bias(logit_bias))
    return tuple(wanted)


def penalise_generated(prompt_length: int, presence: float, frequency: float) -> LogitsProcessor:
    """Subtract `presence` from each token of the reply so far, and `frequency` per occurrence."""

    def penalise(token_ids: Sequence[int], logits: Logits) -> Logits:
        generated = np.asarray(token_ids[prompt_length:], dtype=np.int64)
        tokens, counts = np.unique(generated, return_counts=True)
        penalised = logits.copy()
        penalised[tokens] -= presence + frequency * counts.astype(np.float32)
        return penalised

    return penalise


def add_bias(logit_bias: Mapping[int, float]) -> LogitsProcessor:
    """Add each token's bias to its logit."""
    tokens = np.fromiter(logit_bias.keys(), np.int64)
    biases = np.fromiter(logit_bias.values(), np.float32)

    def bias(_: Sequence[int], logits: Logits) -> Logits:
        biased = logits.copy()
        biased[tokens] += biases
        return biased

    return bias
