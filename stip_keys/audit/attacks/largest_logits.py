"""The reply as it is answered: in vocabulary order, the largest logit is the next token.

It is also the token of the next row sent, and so of every row equal to that. Needs nothing but the
numbering of tokens, which a tokenizer's file tells.
"""

from __future__ import annotations

import numpy as np

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import UNKNOWN, WIDTH, Attack, Attacker, Findings, Tokens, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows


def run(view: View) -> Findings:
    """The tokens of the largest logits of every answer, and of rows equal to those that follow."""
    if reason := _fails(view.scheme, view.head):
        return Findings(reason=reason)
    replies = [largest(each.answers) for each in view.conversations]
    distinct = DistinctRows(view.conversations)
    tokens = np.full((len(distinct.rows), WIDTH), UNKNOWN)
    for where, chosen in zip(distinct.where, replies, strict=True):
        following = where[len(where) - len(chosen) + 1 :]
        tokens[following, : chosen.shape[1]] = chosen[:-1]
    return Findings(distinct.spread(tokens), replies)


def largest(logits: np.ndarray) -> Tokens:
    """The WIDTH largest of each row, largest first: int64 [rows, WIDTH]."""
    return np.argsort(-logits.astype(np.float32), axis=1, kind="stable")[:, :WIDTH]


def _fails(_: Scheme, head: Head) -> str:
    if head == Head.HEAD_CLIENT:
        return "answers are hidden states, whose values name no token by themselves"
    if head == Head.HEAD_SEALED:
        return "logits stand in a secret order"
    return ""


ATTACK = Attack(
    "output", Attacker.OBSERVER, "greedy decoding: the answer's largest logit", run, _fails
)
