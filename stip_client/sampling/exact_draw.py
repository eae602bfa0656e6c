"""Decides which token a draw selects from a row's largest logits, where these suffice.

The weights of the other tokens are only known within bounds. Their sum follows from the row's
log-sum-exp, and none is larger than the smallest known one. If every value within the bounds gives
the same token, the whole row gives this token too. Else the draw is undecided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stip_client.sampling.parameters import SamplingParameters

# How many of a whole row's logits are sorted at first: they decide nearly every draw.
SORTED = 1024
# The log-sum-exp and the logits are float32.
ROUNDING = 1e-5


@dataclass(frozen=True)
class LogitsRow:
    """The logits that are known of one row.

    values: descending, float64 [k], equal ones by token id; token_ids: [k]. rest: the number of
    other tokens. log_sum_exp: the whole row's. whole: the row itself if it is known.
    """

    values: NDArray[np.float64]
    token_ids: NDArray[np.integer]
    rest: int
    log_sum_exp: float
    whole: NDArray[np.floating] | None = None

    @classmethod
    def of_largest(
        cls,
        values: NDArray[np.floating],
        token_ids: NDArray[np.integer],
        rest: int,
        log_sum_exp: float,
    ) -> LogitsRow:
        """A row of which a server sent the largest logits, equal ones in any order."""
        order = np.lexsort((token_ids, -values))
        return cls(values[order].astype(np.float64), token_ids[order], rest, log_sum_exp)

    @classmethod
    def of(cls, logits: NDArray[np.floating], count: int = SORTED) -> LogitsRow:
        """The `count` largest of a whole row [vocab_size]."""
        size = len(logits)
        if count == 1:
            largest = np.array([logits.argmax()])
        elif count < size:
            largest = np.argpartition(logits, size - count)[size - count :]
        else:
            largest = np.arange(size)
        order = largest[np.lexsort((largest, -logits[largest]))]
        peak = logits[order[0]]
        total = float(np.exp(logits - peak, dtype=np.float32).sum(dtype=np.float64))
        return cls(
            logits[order].astype(np.float64),
            order,
            size - len(order),
            float(peak) + float(np.log(total)),
            logits,
        )


def choose(row: LogitsRow, parameters: SamplingParameters, draw: float) -> int | None:
    """The place in the row of the token that a draw from [0, 1) selects; None if undecided.

    In transformers' order: temperature (above 0), top-k, top-p, min-p.
    """
    exponent = 1.0 / parameters.temperature
    weights = np.exp((row.values - row.values[0]) * exponent)
    smallest = float(weights[-1])  # no other token weighs more
    if 0 < parameters.top_k <= len(weights) and (
        # of a whole row we choose among equal logits, and must choose the same every time
        row.whole is None or not row.rest or row.values[parameters.top_k - 1] > row.values[-1]
    ):
        weights = weights[: parameters.top_k]
        rest, rest_low, rest_high = 0, 0.0, 0.0
    else:
        rest, (rest_low, rest_high) = row.rest, _rest(row, exponent, float(weights.sum()))
        if rest:
            # it is chance which tokens equal to the last one are known: they count as rest
            distinct = int(np.searchsorted(-row.values, -row.values[-1], "left"))
            if not distinct:
                return None
            equal = float(weights[distinct:].sum())
            rest += len(weights) - distinct
            rest_low, rest_high = rest_low + equal, rest_high + equal
            weights = weights[:distinct]
        if parameters.top_k and rest:
            more = min(parameters.top_k - len(weights), rest)  # the largest of the rest
            rest_low, rest_high = rest_low * more / rest, min(rest_high, more * smallest)
            rest = more
    cumulative = np.cumsum(weights)
    known = float(cumulative[-1])
    # the number of tokens certainly kept, and bounds of the weight of all kept tokens
    certain = len(weights)
    low, high = known + rest_low, known + rest_high
    if parameters.top_p < 1.0:
        # the smallest set that reaches top_p: keep a token if those before it do not reach it
        before = cumulative - weights
        reach_low, reach_high = parameters.top_p * low, parameters.top_p * high
        certain = int(np.searchsorted(before, reach_low, "left"))
        possible = int(np.searchsorted(before, reach_high, "left"))
        low = float(cumulative[certain - 1])
        if rest and reach_high > known:
            low, high = max(low, min(reach_low, high)), min(high, reach_high + smallest)
        else:
            high = float(cumulative[possible - 1])
    if parameters.min_p > 0.0:
        above = int(np.searchsorted(-weights, -parameters.min_p, "right"))
        certain = min(certain, above)
        low = min(low, float(cumulative[certain - 1]))
        if above < len(weights) or smallest < parameters.min_p:  # none of the rest is kept
            high = min(high, float(cumulative[above - 1]))
    first = int(np.searchsorted(cumulative, draw * low, "right"))
    last = int(np.searchsorted(cumulative, draw * high, "right"))
    if not row.rest and low == high:
        return min(first, certain - 1)  # rounding may carry a draw beyond the end
    return first if first == last < certain else None


def _rest(row: LogitsRow, exponent: float, known: float) -> tuple[float, float]:
    """Bounds of the sum of the other tokens' weights.

    At temperature 1 the sum s is known, and each weight is at most the smallest known one, w. At
    another temperature each weight is raised to the power e. For e above 1, n weights sum to
    n (s/n)^e if they are equal, and to s w^(e-1) if few are as large as possible: these are the
    bounds. For e below 1, the bounds change places.
    """
    if not row.rest:
        return 0.0, 0.0
    if row.whole is not None:
        scaled = (row.whole - np.float32(row.values[0])) * np.float32(exponent)
        sum_ = max(0.0, float(np.exp(scaled).sum(dtype=np.float64)) - known)
        return sum_, sum_
    relative = np.exp(row.values - row.values[0])
    total = float(np.exp(row.log_sum_exp - row.values[0]))
    slack = ROUNDING * total
    left = total - float(relative.sum())
    least, most = max(0.0, left - slack), max(0.0, left) + slack
    smallest, count = float(relative[-1]), row.rest
    most = min(most, count * smallest)
    least = min(least, most)
    if exponent == 1.0 or smallest == 0.0:  # 0: the weights underflow
        return least, most
    equal_least, equal_most = (count * (each / count) ** exponent for each in (least, most))
    few = smallest ** (exponent - 1.0)
    few_least, few_most = least * few, most * few
    return (equal_least, few_most) if exponent > 1.0 else (few_least, equal_most)
