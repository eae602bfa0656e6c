"""Chooses the next token from a row of logits. Knows nothing of text or sessions.

The order of the steps is transformers': logits processors, repetition penalty, temperature, top-k,
top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stip_client.errors import RequestError, ServerError
from stip_client.sampling.exact_draw import LogitsRow, choose
from stip_client.sampling.parameters import SamplingParameters
from stip_client.transport.wire_tensors import LogitsArrays

# How many of a row's largest logits to ask for (8 bytes each): at first, at least and at most. The
# number grows when they do not decide a draw.
WIDTH, NARROWEST, WIDEST = 128, 32, 1024
# An undecided draw asks for this many times more, and then for the whole row.
WIDER = 16
# After this many decided draws in succession, the number is halved.
CALM = 64


@dataclass(frozen=True)
class SampledToken:
    """A token, its log-probability, and those of the likeliest tokens; all of unmodified logits."""

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one reply with one random generator.

    A seed gives the same tokens from the largest logits as from whole rows. The only exception:
    a server may choose among equal logits which ones it counts as the largest.
    """

    def __init__(
        self, parameters: SamplingParameters, vocab_size: int, tokens: Sequence[int] = ()
    ) -> None:
        """tokens: those of the session so far."""
        self._parameters = parameters
        self._vocab_size = vocab_size
        self._tokens = list(tokens)
        self._seen = np.zeros(vocab_size, bool)
        # tokens outside the vocabulary are refused when they are sent
        self._seen[[each for each in self._tokens if 0 <= each < vocab_size]] = True
        self._rng = np.random.default_rng(parameters.seed)
        self._draw: float | None = None
        self._base = WIDTH
        self._width: int | None = None  # set after an undecided draw
        self._decided = 0

    @property
    def top_k(self) -> int:
        """How many of the next row's largest logits to ask for; 0 is the whole row."""
        parameters = self._parameters
        if parameters.changes_logits:
            return 0
        if self._width is not None:
            width = self._width
        elif parameters.is_greedy:
            width = 1
        elif 0 < parameters.top_k <= WIDEST:
            width = parameters.top_k
        else:
            width = self._base
        width = max(width, parameters.top_logprobs)
        return width if width < self._vocab_size else 0

    @property
    def undecided(self) -> bool:
        """Whether the last row is needed again, with more of its logits."""
        return self._width is not None

    @property
    def dtype(self) -> Literal["float16", "float32"]:
        """The type to ask for: float16, which rounds, where every draw needs a whole row."""
        exact = self._parameters.is_greedy or not self._parameters.changes_logits
        return "float32" if exact else "float16"

    def sample(self, logits: LogitsArrays, number: int = -1) -> SampledToken | None:
        """The next token, from row `number` of the logits.

        None if the largest logits do not decide it. The caller then asks again for the same row:
        `top_k` has grown.
        """
        row = self._row(logits, number)
        place = self._choose(row)
        if place is None and row.whole is not None:
            raise ServerError("the logits decide nothing")
        if place is None:
            self._ask_for_more()
            return None
        self._settle()
        token = int(place) if row.whole is not None else int(row.token_ids[place])
        value = float(row.whole[token]) if row.whole is not None else float(row.values[place])
        self._tokens.append(token)
        self._seen[token] = True
        count = self._parameters.top_logprobs
        return SampledToken(
            token,
            value - row.log_sum_exp,
            tuple(
                (int(each), float(its) - row.log_sum_exp)
                for each, its in zip(row.token_ids[:count], row.values[:count], strict=True)
            ),
        )

    def _choose(self, row: LogitsRow) -> int | None:
        """A token id if the whole row is known, else a place in the row; None if undecided."""
        parameters = self._parameters
        whole = row.whole
        if whole is not None and parameters.changes_logits:
            whole = self._changed(whole)
        if parameters.is_greedy:
            return int(whole.argmax()) if whole is not None else 0
        if self._draw is None:
            self._draw = float(self._rng.random())
        if whole is None:
            return choose(row, parameters, self._draw)
        row = LogitsRow.of(whole)
        place = choose(row, parameters, self._draw)
        if place is None:
            row = LogitsRow.of(whole, len(whole))
            place = choose(row, parameters, self._draw)
        return None if place is None else int(row.token_ids[place])

    def _changed(self, whole: NDArray[np.floating]) -> NDArray[np.floating]:
        for processor in self._parameters.logits_processors:
            shape = whole.shape
            whole = np.asarray(processor(tuple(self._tokens), whole.astype(np.float32)))
            if whole.shape != shape or np.isnan(whole).any() or not np.isfinite(whole.max()):
                raise RequestError(
                    f"a logits processor returned {whole.shape} values with NaN, no finite one, or "
                    f"not {shape} of them"
                )
        penalty = self._parameters.repetition_penalty
        if penalty != 1.0:
            # seen tokens become less likely (Keskar et al., 2019, CTRL, section 4.1)
            seen = whole[self._seen].astype(np.float32)
            whole = whole.astype(np.float32)
            whole[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        return whole

    def _ask_for_more(self) -> None:
        self._width = WIDER * self.top_k if self._width is None else self._vocab_size
        self._base = min(2 * self._base, WIDEST)
        self._decided = 0

    def _settle(self) -> None:
        self._draw = None
        if self._width is None:
            self._decided += 1
            if self._decided >= CALM:
                self._base, self._decided = max(self._base // 2, NARROWEST), 0
        self._width = None

    def _row(self, logits: LogitsArrays, number: int) -> LogitsRow:
        values = logits.values[number]
        if logits.indices is None or logits.log_sum_exp is None:
            return LogitsRow.of(values, max(1, self._parameters.top_logprobs))
        rest = self._vocab_size - len(values)
        return LogitsRow.of_largest(
            values, logits.indices[number], rest, float(logits.log_sum_exp[number])
        )
