"""A sealed vocabulary as a substitution cipher, solved by which tokens follow each other.

Rows sent and sealed logits hide which token is which, but not where the same token repeats. The
token that an answer chooses is the next row sent. The search starts from the template's tokens.
"""

from __future__ import annotations

import numpy as np

from stip.v1.manifest_pb2 import Head
from stip_keys.audit.attack import UNKNOWN, Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows, template_tokens
from stip_keys.audit.solvers.logits import largest
from stip_keys.audit.solvers.substitution import Bigrams, Substitution
from stip_keys.masks.derivation import Indices


def run(view: View) -> Findings:
    """Every row's and every answer's token, by the assignment that makes the text likeliest."""
    if view.language is None or not view.language.bigrams:
        return Findings(reason="nothing is known of the language")
    distinct = DistinctRows(view.conversations)
    texts, count = _pseudonyms(view, distinct)
    tokens = template_tokens(view, distinct)
    known = {row: int(token) for row, token in enumerate(tokens) if token != UNKNOWN}
    substitution = Substitution(Bigrams(view.language), texts, count, known)
    substitution.solve(np.random.default_rng(0))
    candidates = substitution.candidates()
    rows = [
        candidates[text[: len(each.sent)]]
        for text, each in zip(texts, view.conversations, strict=True)
    ]
    if view.head == Head.HEAD_CLIENT:
        return Findings(rows)
    replies = [
        candidates[text[-len(each.answers) :]]
        for text, each in zip(texts, view.conversations, strict=True)
    ]
    return Findings(rows, replies)


def _pseudonyms(view: View, distinct: DistinctRows) -> tuple[list[Indices], int]:
    """Conversations as numbers of distinct rows, then of tokens that occur only in answers.

    Logits in any order choose a token; the next row sent is that token's.
    """
    if view.head == Head.HEAD_CLIENT:
        return list(distinct.where), len(distinct.rows)
    chosen = [largest(each.answers)[:, 0] for each in view.conversations]
    names: dict[int, int] = {}
    for where, ids in zip(distinct.where, chosen, strict=True):
        first = len(where) - len(ids) + 1
        names |= zip(map(int, ids[:-1]), map(int, where[first:]), strict=True)
    count = len(distinct.rows)
    texts = []
    for where, ids in zip(distinct.where, chosen, strict=True):
        name = names.setdefault(int(ids[-1]), count)
        count += name == count
        texts.append(np.append(where, name))
    return texts, count


ATTACK = Attack(
    "sealed vocabulary by bigrams",
    Attacker.OBSERVER,
    "automatic cryptanalysis of a substitution by its pairs (Jakobsen, 1995)",
    run,
)
