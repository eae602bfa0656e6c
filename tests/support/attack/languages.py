"""Invented languages: Markov chains of tokens, and sealed conversations in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import SeenConversation, View
from tests.support.attack.scenes import PERMUTATION, SEALED, Said, language

SAMPLE = 20_000


def pairs_matter(rng: np.random.Generator, tokens: int, width: int) -> NDArray[np.float64]:
    """Each token is followed by one of `width` others: the probabilities [tokens, tokens]."""
    chain = np.zeros((tokens, tokens))
    for row in chain:
        row[rng.choice(tokens, width, replace=False)] = rng.dirichlet(np.full(width, 0.7))
    return chain


def frequencies_differ(tokens: int, ratio: float) -> NDArray[np.float64]:
    """Every token is so much rarer than the one before it, and pairs tell nothing."""
    frequencies = ratio ** np.arange(tokens)
    return np.tile(frequencies / frequencies.sum(), (tokens, 1))


def walk(chain: NDArray[np.float64], rng: np.random.Generator, length: int) -> list[int]:
    cumulative = chain.cumsum(axis=1)
    text = [int(rng.integers(len(chain)))]
    for draw in rng.random(length - 1):
        text.append(min(int(cumulative[text[-1]].searchsorted(draw)), len(chain) - 1))
    return text


def sealed_conversations(
    chain: NDArray[np.float64], rng: np.random.Generator, count: int, length: int
) -> tuple[View, list[Said]]:
    """Rows that only differ by token, and answers that choose the next one in a secret order."""
    tokens = len(chain)
    known = language([walk(chain, rng, SAMPLE)], tokens)
    rows = rng.standard_normal((tokens, 8)).astype(np.float16)
    place = rng.permutation(tokens)
    said, conversations = [], []
    for _ in range(count):
        text = walk(chain, rng, length)
        each = Said(text[: length // 2], text[length // 2 :])
        answers = np.zeros((len(each.reply), tokens), np.float16)
        answers[np.arange(len(each.reply)), place[each.reply]] = 1
        conversations.append(SeenConversation(rows[each.rows], answers, len(each.prompt)))
        said.append(each)
    return View(PERMUTATION, SEALED, conversations, language=known), said
