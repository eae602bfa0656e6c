"""Distinct rows of the traffic: equal tokens are sent as equal rows, each decoded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import UNKNOWN, SeenConversation, Tokens, View


class DistinctRows:
    """The different rows among all that were sent.

    `rows` float16 [distinct, hidden_size] come in the order of their first occurrence. `where`
    holds for each conversation the index of every row sent, int64 [rows sent]. `counts`, int64
    [distinct], holds how often each occurs.
    """

    def __init__(self, conversations: Sequence[SeenConversation]) -> None:
        places: dict[bytes, int] = {}
        found: list[NDArray[np.float16]] = []
        self.where: list[NDArray[np.int64]] = []
        for conversation in conversations:
            indices = np.empty(len(conversation.sent), np.int64)
            for position, row in enumerate(conversation.sent):
                indices[position] = places.setdefault(row.tobytes(), len(found))
                if indices[position] == len(found):
                    found.append(row)
            self.where.append(indices)
        self.rows = np.array(found)
        self.counts = np.bincount(np.concatenate(self.where), minlength=len(found))

    def spread(self, candidates: Tokens) -> list[Tokens]:
        """Candidates of the distinct rows [distinct, n] for every row sent, by conversation."""
        return [candidates[indices] for indices in self.where]


def template_tokens(view: View, distinct: DistinctRows) -> Tokens:
    """The template's token of every distinct row, UNKNOWN elsewhere: int64 [distinct]."""
    tokens = np.full(len(distinct.rows), UNKNOWN)
    if view.template is None:
        return tokens
    before, after = view.template
    for conversation, where in zip(view.conversations, distinct.where, strict=True):
        prompt = where[: conversation.prompt_rows]
        if len(prompt) < len(before) + len(after):
            continue  # sent without the template
        tokens[prompt[: len(before)]] = before
        tokens[prompt[len(prompt) - len(after) :]] = after
    return tokens
