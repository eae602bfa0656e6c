"""How the tokens of a reply are chosen, with the defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stip_client.errors import RequestError

# Takes the tokens of the session so far and a row of logits, float32 [vocab_size]; returns the row
# to choose from, which may be the same array.
LogitsProcessor = Callable[[Sequence[int], NDArray[np.float32]], NDArray[np.float32]]

MAX_TOP_LOGPROBS = 1000
# Logits divided by a lower temperature may overflow a float.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class SamplingParameters:
    """How to choose tokens. temperature 0 is greedy; top_k 0, top_p 1, min_p 0, penalty 1 are off.

    top_logprobs: how many of the likeliest tokens to report with each token. Raises RequestError
    for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    top_logprobs: int = 0
    logits_processors: Sequence[LogitsProcessor] = ()

    def __post_init__(self) -> None:
        for name, good, range_ in (
            (
                "temperature",
                self.temperature == 0 or MIN_TEMPERATURE <= self.temperature < float("inf"),
                f"0, or {MIN_TEMPERATURE:g} or more",
            ),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
            (
                "top_logprobs",
                0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
                f"0 to {MAX_TOP_LOGPROBS}",
            ),
        ):
            if not good:
                raise RequestError(f"{name} is {getattr(self, name)}; it must be {range_}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def changes_logits(self) -> bool:
        """Whether any token may become more or less likely, so that whole rows are needed."""
        return self.repetition_penalty != 1.0 or bool(self.logits_processors)
