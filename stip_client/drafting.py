"""Guesses the tokens that come next, from those that came before, and how many to guess.

Prompt lookup: where the last few tokens have occurred before, what followed them then may follow
them now (A. Saxena, "Prompt Lookup Decoding", 2023). No model drafts. The server computes logits
for every guess in the same step, so a right guess saves a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stip_client.errors import RequestError
from stip_client.profile import StepProfile

Draft = Literal["auto", "off"] | int
# The lengths of the n-grams that are looked up, longest first.
NGRAMS = (6, 4, 3, 2)
LONGEST = 24
# The share of a reply's time that guesses may cost where they turn out wrong.
ALLOWANCE = 0.03
# What is remembered of an earlier step when a new one is counted.
DECAY = 0.9
# Where guesses are mostly wrong, so many steps later the cost of one without any is measured again.
STALE = 16
# What a guess costs, in steps without any, as long as it has not been measured; and how fast a
# measurement from before is given up for it.
PRESUMED, FORGETTING = 0.125, 0.02


class NgramIndex:
    """The tokens of a session, and where each of their n-grams last occurred."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        # (the last n tokens) -> the position after them, the latest but for the present one
        self._after: dict[tuple[int, ...], int] = {}
        self._latest: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add some tokens."""
        for token in tokens:
            self._tokens.append(token)
            end = len(self._tokens)
            for n in NGRAMS:
                if n <= end:
                    ngram = tuple(self._tokens[end - n :])
                    if (before := self._latest.get(ngram)) is not None:
                        self._after[ngram] = before
                    self._latest[ngram] = end

    def propose(self, count: int) -> list[int]:
        """Up to `count` tokens that may come next; none where nothing repeats."""
        end = len(self._tokens)
        for n in NGRAMS:
            if n < end and (start := self._after.get(tuple(self._tokens[end - n :]))) is not None:
                # what repeats may go on repeating: beyond the end the period begins again
                period = end - start
                return [self._tokens[start + each % period] for each in range(count)]
        return []


class DraftLength:
    """How many tokens to guess: as many as pay, going by what earlier steps cost and accepted.

    A step of n guesses takes `base + n * extra` seconds and brings 1 + a + ... + a^n tokens, where
    a is the chance that a guess is right. Guesses that never come true cost at most ALLOWANCE of
    the time that the reply has taken: there is an account of what they have cost and saved.
    """

    def __init__(self, draft: Draft) -> None:
        if draft not in ("auto", "off") and not (isinstance(draft, int) and draft >= 0):
            raise RequestError(f"draft is {draft!r}; it must be 'auto', 'off' or a number")
        # None: as many as pay
        self._fixed = draft if isinstance(draft, int) else {"auto": None, "off": 0}[draft]
        self._base: float | None = None
        self._extra: float | None = None
        self._age = 0  # steps since one without guesses
        self._right, self._tried = 1.0, 2.0
        self._elapsed = 0.0
        self._balance = 0.0

    @property
    def off(self) -> bool:
        """Whether there will be no guess at all."""
        return self._fixed == 0

    def choose(self) -> int:
        """The number of tokens to guess in the next step."""
        if self._fixed is not None:
            return self._fixed
        if self._base is None:  # no step has told yet what one costs
            return 0
        extra = PRESUMED * self._base if self._extra is None else self._extra
        chance = self._right / self._tried
        if chance < 0.5 and self._age >= STALE:
            return 0
        best, best_rate = 0, 1 / self._base
        tokens = power = 1.0
        for count in range(1, LONGEST + 1):
            power *= chance
            tokens += power
            rate = tokens / (self._base + count * extra)
            if rate > best_rate:
                best, best_rate = count, rate
        affordable = self._balance + ALLOWANCE * self._elapsed
        return max(0, min(best, int(affordable / extra))) if extra > 0 else best

    def take(self, profile: StepProfile, drafted: int, accepted: int) -> None:
        """Count a step that brought one token and `accepted` of `drafted` guesses.

        The first step of a reply is not one: it computes the prompt.
        """
        seconds = profile.wire + profile.queue + profile.compute
        self._elapsed += seconds
        if not drafted:
            self._base, self._age = _mean(self._base, seconds), 0
            if self._extra is not None:  # it may have changed since it was measured
                self._extra += FORGETTING * (PRESUMED * self._base - self._extra)
            return
        self._age += 1
        base = self._base or seconds
        self._extra = _mean(self._extra, max(0.0, seconds - base) / drafted)
        self._balance += accepted * base - max(0.0, seconds - base)
        self.observe(min(accepted + 1, drafted), accepted)

    def observe(self, tried: int, right: int) -> None:
        """Count guesses whose outcome is known, whether they were sent or not."""
        self._right = DECAY**tried * self._right + right
        self._tried = DECAY**tried * self._tried + tried

    def begin(self, profile: StepProfile) -> None:
        """Count the step that computed the prompt."""
        self._elapsed += profile.wire + profile.queue + profile.compute


def _mean(mean: float | None, value: float) -> float:
    """A running mean that an outlier, a step held up by others, moves only a little."""
    if mean is None:
        return value
    return mean + 0.25 * (min(value, 2 * mean + 1e-4) - mean)
