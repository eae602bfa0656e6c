"""The order in which a search tries tokens as the next one of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import Language, PublicModel, Tokens

# Batch sizes: the likeliest and the most frequent tokens, twice, then pieces of all others.
FIRST, THEN, PIECE = 48, 384, 2048


class Proposals:
    """Orders of tokens for several conversations that are decoded at the same time.

    The likeliest are the public model's own next tokens, the most frequent ones in such text, and
    those that have occurred in these conversations.
    """

    def __init__(self, public: PublicModel, language: Language | None, conversations: int) -> None:
        self._public = public
        self._seen = np.empty(0, np.int64)
        # each conversation as the public model has followed it
        self.prefixes = [public.decoder.prefix() for _ in range(conversations)]
        self._frequent = np.arange(len(public.embedding))
        if language is not None:
            self._frequent = np.argsort(-language.unigrams, kind="stable")
        self._next: list[NDArray[np.float32] | None] = [None] * conversations

    def extend(self, which: Sequence[int], tokens: Sequence[Tokens]) -> None:
        """Continue conversation which[k] with tokens[k], which may be empty."""
        self._seen = np.union1d(self._seen, np.concatenate(tokens)) if tokens else self._seen
        pairs = [(k, each) for k, each in zip(which, tokens, strict=True) if len(each)]
        if not pairs:
            return
        decoder = self._public.decoder
        rows = [self._public.embedding[each].astype(np.float32) for _, each in pairs]
        states = decoder.extend([self.prefixes[k] for k, _ in pairs], rows)
        last = decoder.normalised(np.stack([each[-1] for each in states]))
        for (k, _), logits in zip(pairs, last @ decoder.head().T, strict=True):
            self._next[k] = logits

    def likeliest(self, conversation: int, width: int) -> Tokens:
        """The public model's next tokens: int64 [width], or none before the first."""
        logits = self._next[conversation]
        return np.empty(0, np.int64) if logits is None else np.argsort(-logits)[:width]

    def batches(self, conversation: int) -> Iterator[Tokens]:
        """Every token of the vocabulary once, by batches, the likeliest first."""
        logits = self._next[conversation]
        order = self._frequent if logits is None else np.argsort(-logits)
        tried = np.zeros(len(order), np.bool_)
        for width in (FIRST, THEN):
            batch = np.union1d(order[:width], self._frequent[:width])
            batch = np.union1d(batch, self._seen)
            new = batch[~tried[batch]]
            tried[new] = True
            yield new
        rest = order[~tried[order]]
        for start in range(0, len(rest), PIECE):
            yield rest[start : start + PIECE]
