"""Logits in vocabulary order: the largest one names the next token of the reply.

That is also the token of the next row sent, and of every equal row. The attacker needs only the
tokenizer's file, which numbers the tokens.
"""

from __future__ import annotations

import numpy as np

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import UNKNOWN, WIDTH, Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.logits import largest


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


def _fails(_: Scheme, head: Head) -> str:
    if head == Head.HEAD_CLIENT:
        return "answers are hidden states, whose values name no token by themselves"
    if head == Head.HEAD_SEALED:
        return "logits stand in a secret order"
    return ""


ATTACK = Attack(
    "largest logits", Attacker.OBSERVER, "greedy decoding: the answer's largest logit", run, _fails
)
