"""Guesses the tokens that come next, from those that came before, and how many to guess.

Prompt lookup: where the last few tokens have occurred before, what followed them then may follow
them now (A. Saxena, "Prompt Lookup Decoding", 2023). No model drafts. The server computes logits
for every guess in the same step, so a right guess saves a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stip_client.errors import RequestError
from stip_client.transport.step_profile import StepProfile

Draft = Literal["auto", "off"] | int
# The lengths of the n-grams that are looked up, longest first, and how likely what followed one
# follows it again, as long as nothing is known.
NGRAMS = {6: 0.8, 4: 0.7, 3: 0.6, 2: 0.5, 1: 0.3}
LONGEST = 24
# The share of a reply's time that guesses may cost where they turn out wrong.
ALLOWANCE = 0.03
# What is remembered of an earlier step when a new one is counted.
DECAY = 0.9
# Where guesses are mostly wrong, so many steps later the cost of one without any is measured again.
STALE = 16
# What a guess is presumed to cost as long as it has not been measured, as shares of what a step
# without any computes and of all that it takes; and how fast a measurement is given up for that.
PRESUMED_OF_COMPUTE, PRESUMED_OF_STEP, FORGETTING = 0.25, 0.01, 0.02
# The share of a new measurement of that in the mean, for each guess.
SLOWLY = 0.05
# What guesses may cost at first, when there is no time yet to have a share of, in steps.
CREDIT = 0.5


@dataclass(frozen=True)
class NgramMatch:
    """An n-gram that occurred before, `n` tokens long, and the position after it."""

    n: int
    start: int


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

    def match(self) -> NgramMatch | None:
        """The latest earlier occurrence of the longest n-gram at the end; None without one."""
        end = len(self._tokens)
        for n in NGRAMS:
            if n < end and (start := self._after.get(tuple(self._tokens[end - n :]))) is not None:
                return NgramMatch(n, start)
        return None

    def propose(self, match: NgramMatch, count: int) -> list[int]:
        """`count` tokens that may come next, which are those that came after a match.

        What repeats may go on repeating: beyond the end the period begins again.
        """
        period = len(self._tokens) - match.start
        return [self._tokens[match.start + each % period] for each in range(count)]


class DraftLength:
    """How many tokens to guess: as many as pay, going by what earlier steps cost and accepted.

    A step of n guesses takes `base + n * extra` seconds and brings 1 + a + ... + a^n tokens, where
    a is the chance that a guess is right. The seconds are those of the round trip, and of the head
    where the client has it. Guesses that never come true cost at most ALLOWANCE of the time that
    the reply has taken, and CREDIT: there is an account of what they have cost and saved.
    """

    def __init__(self, draft: Draft) -> None:
        if draft not in ("auto", "off") and not (isinstance(draft, int) and draft >= 0):
            raise RequestError(f"draft is {draft!r}; it must be 'auto', 'off' or a number")
        # None: as many as pay
        self._fixed = draft if isinstance(draft, int) else {"auto": None, "off": 0}[draft]
        # seconds: of a step without guesses, what is computed, the client's head included, and the
        # rest; and what each guess adds
        self._compute = self._wire = self._extra = 0.0
        self._measured = False  # rather than taken from the step that computed the prompt
        self._age = 0  # steps since one without guesses
        # of guesses after n-grams of each length
        self._right = {n: 2 * chance for n, chance in NGRAMS.items()}
        self._tried = dict.fromkeys(NGRAMS, 2.0)
        self._elapsed = 0.0
        self._balance = 0.0

    @property
    def off(self) -> bool:
        """Whether there will be no guess at all."""
        return self._fixed == 0

    def choose(self, n: int) -> int:
        """The number of tokens to guess in the next step, after an n-gram of so many tokens."""
        if self._fixed is not None:
            return self._fixed
        base, extra = self._base, max(self._extra, 0.0)
        chance = self._right[n] / self._tried[n]
        if base == 0.0 or (chance < 0.5 and self._age >= STALE):
            return 0
        best, best_rate = 0, 1 / base
        tokens = power = 1.0
        for count in range(1, LONGEST + 1):
            power *= chance
            tokens += power
            rate = tokens / (base + count * extra)
            if rate > best_rate:
                best, best_rate = count, rate
        affordable = self._balance + CREDIT * base + ALLOWANCE * self._elapsed
        return max(0, min(best, int(affordable / extra))) if extra > 0 else best

    def count_prompt_step(self, profile: StepProfile) -> None:
        """Count a step that is none of one token: that which computed the prompt."""
        self._elapsed += _seconds(profile)
        if self._base == 0.0:  # what a step costs is like this, until one has told
            self._compute = 2 * profile.compute / profile.rows + profile.head  # of one row
            self._wire = profile.wire
            self._extra = self._presumed

    def count_step(self, profile: StepProfile, drafted: int, accepted: int, n: int = 1) -> None:
        """Count a step that brought one token and `accepted` of `drafted` guesses after an n-gram.

        The first step of a reply is not one: it computes the prompt.
        """
        self._elapsed += _seconds(profile)
        if not drafted:
            first, self._measured = not self._measured, True
            compute = profile.compute + profile.head
            self._compute = compute if first else _mean(self._compute, compute)
            wire = profile.wire + profile.queue
            self._wire, self._age = wire if first else _mean(self._wire, wire), 0
            # what a guess costs may have changed since it was measured
            self._extra += FORGETTING * (self._presumed - self._extra)
            return
        self._age += 1
        # one measurement may be of something else: their mean tells, and many guesses tell more
        measured = (_seconds(profile) - self._base) / drafted
        measured = min(max(measured, -self._base), 2 * self._base)
        self._extra += min(SLOWLY * drafted, 0.5) * (measured - self._extra)
        self._balance += accepted * self._base - drafted * max(self._extra, 0.0)
        self.count_guesses(n, min(accepted + 1, drafted), accepted)

    def count_guesses(self, n: int, tried: int, right: int) -> None:
        """Count guesses whose outcome is known, whether they were sent or not."""
        self._right[n] = DECAY**tried * self._right[n] + right
        self._tried[n] = DECAY**tried * self._tried[n] + tried

    @property
    def _base(self) -> float:
        return self._compute + self._wire

    @property
    def _presumed(self) -> float:
        return PRESUMED_OF_COMPUTE * self._compute + PRESUMED_OF_STEP * self._base


def _seconds(profile: StepProfile) -> float:
    return profile.wire + profile.queue + profile.compute + profile.head


def _mean(mean: float, value: float) -> float:
    """A running mean that an outlier, a step held up by others, moves only a little."""
    return mean + 0.25 * (min(value, 2 * mean + 1e-4) - mean)
