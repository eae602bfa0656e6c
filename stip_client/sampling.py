"""Chooses the next token from a row of logits. NumPy only; knows nothing of text or sessions.

The order of the steps is transformers': repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stip_client.errors import RequestError
from stip_client.protocol import LogitsWanted
from stip_client.tensors import LogitsArrays


@dataclass(frozen=True)
class SamplingParameters:
    """How to choose. temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and penalty 1 are off.

    Raises RequestError for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, good, range_ in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
        ):
            if not good:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be {range_}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def wanted(self, vocab_size: int) -> LogitsWanted:
        """The least that the server must send for an exact choice.

        The penalty may raise or lower any token seen before, so it needs whole rows; greedy choice
        among them needs their full precision.
        """
        if self.repetition_penalty != 1.0:
            return LogitsWanted("last", "float32" if self.is_greedy else "float16")
        if self.is_greedy:
            return LogitsWanted("last", "float32", top_k=1)
        if self.top_k:
            return LogitsWanted("last", "float32", top_k=min(self.top_k, vocab_size))
        return LogitsWanted("last", "float16")


class Sampler:
    """Draws tokens with one random generator; the same seed gives the same tokens."""

    def __init__(self, parameters: SamplingParameters) -> None:
        self._parameters = parameters
        self._rng = np.random.default_rng(parameters.seed)

    def sample(self, logits: LogitsArrays, history: Sequence[int]) -> tuple[int, float]:
        """A token and its log-probability under the unmodified logits.

        `logits` holds one row, whole or its top k; `history` the tokens of the session so far.
        """
        values = logits.values[-1].astype(np.float64)
        indices = None if logits.indices is None else logits.indices[-1]
        if logits.log_sum_exp is None:
            peak = values.max()
            log_sum_exp = float(peak + np.log(np.exp(values - peak).sum()))
        else:
            log_sum_exp = float(logits.log_sum_exp[-1])
        chosen = self._choose(values, history)
        token = chosen if indices is None else int(indices[chosen])
        return token, float(values[chosen]) - log_sum_exp

    def _choose(self, values: NDArray[np.float64], history: Sequence[int]) -> int:
        parameters = self._parameters
        if parameters.repetition_penalty != 1.0:
            values = _penalised(values, history, parameters.repetition_penalty)
        if parameters.is_greedy:
            return int(values.argmax())
        scaled = values / parameters.temperature
        order = np.argsort(-scaled, kind="stable")
        if parameters.top_k:
            order = order[: parameters.top_k]
        kept = np.exp(scaled[order] - scaled[order[0]])
        probabilities = kept / kept.sum()
        if parameters.top_p < 1.0:
            # the smallest set that reaches top_p: a token stays if those before it do not
            before = np.cumsum(probabilities) - probabilities
            probabilities = np.where(before < parameters.top_p, probabilities, 0.0)
        if parameters.min_p > 0.0:
            floor = parameters.min_p * probabilities[0]
            probabilities = np.where(probabilities >= floor, probabilities, 0.0)
        cumulative = np.cumsum(probabilities)
        draw = self._rng.random() * cumulative[-1]
        return int(order[min(int(np.searchsorted(cumulative, draw, "right")), len(order) - 1)])


def _penalised(
    values: NDArray[np.float64], history: Sequence[int], penalty: float
) -> NDArray[np.float64]:
    """Tokens seen before become less likely (Keskar et al., 2019, CTRL, section 4.1)."""
    seen = np.unique(np.asarray(history, dtype=np.int64))
    penalised = values.copy()
    penalised[seen] = np.where(values[seen] > 0, values[seen] / penalty, values[seen] * penalty)
    return penalised
