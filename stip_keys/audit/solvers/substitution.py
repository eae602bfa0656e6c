"""Solves a substitution cipher over tokens, by the frequencies of token pairs in a language.

Pseudonyms are numbers 0, 1, …, one for each token. A text is an array of pseudonyms. The solver
changes one assignment of a token to a pseudonym at a time, as long as the text becomes likelier. If
another pseudonym has the token, the two exchange their tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import UNKNOWN, WIDTH, Language, Tokens
from stip_keys.masks.derivation import Indices

# Weight of a token's own frequency against the pairs it was seen in.
SMOOTHING = 1.0
RESTARTS, SWEEPS, PROPOSALS = 24, 20, 8
# Where nothing is known, each attempt begins with another of this many tokens.
BEGINNINGS = 8

Float64 = NDArray[np.float64]


class Bigrams:
    """Probabilities of pairs: as counted, or from single tokens for pairs never counted.

    log P(b | a) = base(b) - mass(a) + bonus(a, b), where only counted pairs have a bonus.
    """

    def __init__(self, language: Language) -> None:
        unigrams = language.unigrams.astype(np.float64) + 0.01
        self.vocab_size = len(unigrams)
        self.base = np.log(SMOOTHING * unigrams / unigrams.sum())
        pairs = np.array(list(language.bigrams), np.int64).reshape(-1, 2)
        counts = np.array(list(language.bigrams.values()), np.float64)
        after = np.bincount(pairs[:, 0], counts, minlength=self.vocab_size)
        self.mass = np.log(after + SMOOTHING)
        bonus = np.log1p(counts / np.exp(self.base[pairs[:, 1]]))
        keys = pairs[:, 0] * self.vocab_size + pairs[:, 1]
        order = np.argsort(keys)
        self._keys, self._bonus = keys[order], bonus[order]
        self.successors = Neighbours(pairs[:, 0], pairs[:, 1], bonus, self.vocab_size)
        self.predecessors = Neighbours(pairs[:, 1], pairs[:, 0], bonus, self.vocab_size)
        doubled = pairs[:, 0] == pairs[:, 1]
        self.doubles = np.zeros(self.vocab_size)
        self.doubles[pairs[doubled, 0]] = bonus[doubled]

    def bonus(self, first: Tokens, second: Tokens) -> Float64:
        """The bonus of each pair of tokens, 0 for those never counted."""
        if not len(self._keys):
            return np.zeros(len(first))
        keys = first * self.vocab_size + second
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._bonus[place], 0.0)


class Neighbours:
    """The tokens counted next to each token, on one side of it, and the bonus of each pair."""

    def __init__(self, tokens: Tokens, neighbours: Tokens, bonus: Float64, vocab_size: int) -> None:
        order = np.argsort(tokens, kind="stable")
        self._neighbours, self._bonus = neighbours[order], bonus[order]
        self._bounds = np.searchsorted(tokens[order], np.arange(vocab_size + 1))

    def of(self, token: int) -> tuple[Tokens, Float64]:
        own = slice(self._bounds[token], self._bounds[token + 1])
        return self._neighbours[own], self._bonus[own]


class Substitution:
    """A text of pseudonyms, and an assignment of tokens to them: UNKNOWN where there is none yet.

    `known` holds tokens that are certain, by pseudonym.
    """

    def __init__(
        self, bigrams: Bigrams, texts: Sequence[Indices], count: int, known: Mapping[int, int]
    ) -> None:
        self._bigrams = bigrams
        self._known = known
        pairs = np.concatenate([np.column_stack([text[:-1], text[1:]]) for text in texts])
        self._pairs, self._counts = np.unique(pairs, axis=0, return_counts=True)
        self._frequencies = np.bincount(np.concatenate(texts), minlength=count)
        self.tokens = np.full(count, UNKNOWN)

    def solve(self, rng: np.random.Generator) -> float:
        """Assign all tokens, by the best of several attempts. Returns the text's log-likelihood."""
        best: tuple[float, Tokens] | None = None
        for attempt in range(RESTARTS):
            self._begin(rng, attempt)
            self._climb()
            likelihood = self._likelihood()
            if best is None or likelihood > best[0]:
                best = likelihood, self.tokens.copy()
        assert best is not None
        self.tokens = best[1]
        return best[0]

    def candidates(self) -> Tokens:
        """The likeliest tokens of every pseudonym: int64 [pseudonyms, WIDTH]."""
        table = np.full((len(self.tokens), WIDTH), UNKNOWN)
        for pseudonym, token in enumerate(self.tokens):
            order = np.argsort(-self._scores(pseudonym), kind="stable")[:WIDTH]
            ranked = np.append(token, order[order != token])[:WIDTH]
            table[pseudonym, : len(ranked)] = ranked
        for pseudonym, token in self._known.items():
            table[pseudonym, 1:] = UNKNOWN
            table[pseudonym, 0] = token
        return table

    def _begin(self, rng: np.random.Generator, attempt: int) -> None:
        """Assign what is known, then always the pseudonym with most assigned neighbours.

        Attempts differ in their noise and, where nothing is known, in the first token.
        """
        rank = 0 if self._known else attempt % BEGINNINGS
        noise = 0.5 * (attempt // (1 if self._known else BEGINNINGS))
        self.tokens[:] = UNKNOWN
        free = np.ones(self._bigrams.vocab_size, np.bool_)
        for pseudonym, token in self._known.items():
            self.tokens[pseudonym], free[token] = token, False
        for _ in range(np.count_nonzero(self.tokens == UNKNOWN)):
            neighbours = np.zeros(len(self.tokens))
            first, second = self._pairs.T
            is_set = self.tokens != UNKNOWN
            np.add.at(neighbours, first[is_set[second]], self._counts[is_set[second]])
            np.add.at(neighbours, second[is_set[first]], self._counts[is_set[first]])
            neighbours += 1e-3 * self._frequencies
            neighbours[is_set] = -1
            pseudonym = int(neighbours.argmax())
            scores = self._scores(pseudonym) + noise * rng.gumbel(size=len(free))
            scores[~free] = -np.inf
            token = int(np.argsort(-scores, kind="stable")[rank])
            rank = 0
            self.tokens[pseudonym], free[token] = token, False

    def _climb(self) -> None:
        order = np.argsort(-self._frequencies, kind="stable")
        likelihood = self._likelihood()
        for _ in range(SWEEPS):
            before = likelihood
            for pseudonym in map(int, order):
                if pseudonym not in self._known:
                    likelihood = self._improve(pseudonym, likelihood)
            if likelihood <= before + 1e-9:
                return

    def _improve(self, pseudonym: int, likelihood: float) -> float:
        """Try the tokens that fit a pseudonym's neighbours best. Returns the new likelihood."""
        own = self.tokens[pseudonym]
        for token in np.argsort(-self._scores(pseudonym), kind="stable")[:PROPOSALS]:
            if token == own:
                return likelihood
            holder = np.nonzero(self.tokens == token)[0]
            if len(holder) and int(holder[0]) in self._known:
                continue
            self.tokens[pseudonym] = token
            self.tokens[holder] = own
            changed = self._likelihood()
            if changed > likelihood + 1e-9:
                return changed
            self.tokens[pseudonym], self.tokens[holder] = own, token
        return likelihood

    def _likelihood(self) -> float:
        first, second = self.tokens[self._pairs.T]
        bigrams = self._bigrams
        logarithms = bigrams.base[second] - bigrams.mass[first] + bigrams.bonus(first, second)
        return float(self._counts @ logarithms)

    def _scores(self, pseudonym: int) -> Float64:
        """The log-likelihood of a pseudonym's pairs for every token, up to a constant."""
        bigrams = self._bigrams
        first, second = self._pairs.T
        itself = (first == pseudonym) & (second == pseudonym)
        before = (second == pseudonym) & (self.tokens[first] != UNKNOWN) & ~itself
        after = (first == pseudonym) & (self.tokens[second] != UNKNOWN) & ~itself
        doubled = self._counts[itself].sum()
        # a token's own frequency counts also where no neighbour is known
        entering = max(self._counts[before].sum() + doubled, 1)
        scores: Float64 = entering * bigrams.base
        scores -= (self._counts[after].sum() + doubled) * bigrams.mass
        scores += doubled * bigrams.doubles
        for other, count in zip(first[before], self._counts[before], strict=True):
            tokens, bonus = bigrams.successors.of(int(self.tokens[other]))
            scores[tokens] += count * bonus
        for other, count in zip(second[after], self._counts[after], strict=True):
            tokens, bonus = bigrams.predecessors.of(int(self.tokens[other]))
            scores[tokens] += count * bonus
        return scores
