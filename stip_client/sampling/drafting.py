"""Guesses the next tokens from the earlier ones, and decides how many to guess.

Prompt lookup (A. Saxena, "Prompt Lookup Decoding", 2023): if the last few tokens occurred before,
the tokens that followed then may follow now. There is no draft model. The server computes logits
for every guess in the same step, so a right guess saves a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stip_client.errors import RequestError
from stip_client.transport.step_profile import StepProfile

Draft = Literal["auto", "off"] | int
# The lengths of the n-grams to look up, longest first, each with the assumed chance that the same
# token follows again.
NGRAMS = {6: 0.8, 4: 0.7, 3: 0.6, 2: 0.5, 1: 0.3}
# The most tokens to guess at once.
LONGEST = 24
# The share of a reply's time that wrong guesses may cost.
ALLOWANCE = 0.03
# The weight of each earlier guess, relative to the next one.
DECAY = 0.9
# Where guesses are mostly wrong, a step without any is measured again after this many steps.
STALE = 16
# The assumed cost of a guess before it is measured: shares of the compute time and of the whole
# time of a step without guesses. FORGETTING: how fast a measurement returns to the assumption.
PRESUMED_OF_COMPUTE, PRESUMED_OF_STEP, FORGETTING = 0.25, 0.01, 0.02
# The weight of a new measurement in the mean, per guess.
SLOWLY = 0.05
# What guesses may cost at first, in steps: no time has passed yet of which they may take a share.
CREDIT = 0.5


@dataclass(frozen=True)
class NgramMatch:
    """An n-gram that occurred before, `n` tokens long, and the position after it."""

    n: int
    start: int


class NgramIndex:
    """The tokens of a session, and where each n-gram last occurred."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        # an n-gram -> the position after its last occurrence but one
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
        """`count` tokens that may come next: those that came after a match.

        At the end of the tokens, the period begins again: a repetition may go on.
        """
        period = len(self._tokens) - match.start
        return [self._tokens[match.start + each % period] for each in range(count)]


class DraftLength:
    """How many tokens to guess: the number that pays best, going by earlier steps.

    A step of n guesses takes `base + n * extra` seconds and brings 1 + a + ... + a^n tokens, where
    a is the chance that a guess is right. The seconds are those of the round trip, and of the head
    if the client has it. `_balance` counts what guesses saved less what they cost, so that wrong
    guesses cost at most CREDIT and ALLOWANCE of the reply's time.
    """

    def __init__(self, draft: Draft) -> None:
        if draft not in ("auto", "off") and not (isinstance(draft, int) and draft >= 0):
            raise RequestError(f"draft is {draft!r}; it must be 'auto', 'off' or a number")
        # None: choose for each step
        self._fixed = draft if isinstance(draft, int) else {"auto": None, "off": 0}[draft]
        # seconds of a step without guesses: computing (the client's head included) and the rest;
        # and seconds that each guess adds
        self._compute = self._wire = self._extra = 0.0
        self._measured = False  # false: derived from the step that computed the prompt
        self._age = 0  # steps since one without guesses
        # guesses that were right, after n-grams of each length
        self._right = {n: 2 * chance for n, chance in NGRAMS.items()}
        self._tried = dict.fromkeys(NGRAMS, 2.0)
        self._elapsed = 0.0
        self._balance = 0.0

    @property
    def off(self) -> bool:
        """Whether no token is ever guessed."""
        return self._fixed == 0

    def choose(self, n: int) -> int:
        """The number of tokens to guess in the next step, after an n-gram of n tokens."""
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
        """Count a step that computed the prompt."""
        self._elapsed += _seconds(profile)
        if self._base == 0.0:  # an estimate, until a step without guesses is measured
            self._compute = 2 * profile.compute / profile.rows + profile.head  # of one row
            self._wire = profile.wire
            self._extra = self._presumed

    def count_step(self, profile: StepProfile, drafted: int, accepted: int, n: int = 1) -> None:
        """Count a step that brought a token and `accepted` of `drafted` guesses after an n-gram."""
        self._elapsed += _seconds(profile)
        if not drafted:
            first, self._measured = not self._measured, True
            compute = profile.compute + profile.head
            self._compute = compute if first else _mean(self._compute, compute)
            wire = profile.wire + profile.queue
            self._wire, self._age = wire if first else _mean(self._wire, wire), 0
            # the cost of a guess may have changed since it was measured
            self._extra += FORGETTING * (self._presumed - self._extra)
            return
        self._age += 1
        # a single measurement is noisy: take a mean, in which many guesses weigh more
        measured = (_seconds(profile) - self._base) / drafted
        measured = min(max(measured, -self._base), 2 * self._base)
        self._extra += min(SLOWLY * drafted, 0.5) * (measured - self._extra)
        self._balance += accepted * self._base - drafted * max(self._extra, 0.0)
        self.count_guesses(n, min(accepted + 1, drafted), accepted)

    def count_guesses(self, n: int, tried: int, right: int) -> None:
        """Count guesses whose outcome is known, even if they were not sent."""
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
    """A running mean that an outlier moves only a little."""
    return mean + 0.25 * (min(value, 2 * mean + 1e-4) - mean)
