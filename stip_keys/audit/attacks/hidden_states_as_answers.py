"""Final hidden states, which the server returns where the client holds the head.

A prompt has an answer only to its last row. The rows before it are decoded from the rows sent.
"""

from __future__ import annotations

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.inner_products import tokens_by_products
from stip_keys.audit.solvers.nearest import nearest, sorted_values
from stip_keys.audit.solvers.state_matching import SOURCE, decode_states, num_layers


def run(view: View) -> Findings:
    """Answered rows by their final states; the rows before them by the rows sent."""
    assert view.public is not None
    if reason := _fails(view.scheme, view.head):
        return Findings(reason=reason)
    distinct, embedding = DistinctRows(view.conversations), view.public.embedding
    if view.scheme == Scheme.SCHEME_ROTATION:
        tokens = tokens_by_products(distinct.rows, embedding)[0]
    else:
        tokens = nearest(sorted_values(distinct.rows), embedding, sorted_values)[0]
    given = [
        candidates[: len(each.sent) - len(each.answers)]
        for candidates, each in zip(distinct.spread(tokens), view.conversations, strict=True)
    ]
    answers = [each.answers for each in view.conversations]
    return decode_states(view, num_layers(view), answers, given, is_normalised=True)


def _fails(_: Scheme, head: Head) -> str:
    return "" if head == Head.HEAD_CLIENT else "answers are logits, not hidden states"


ATTACK = Attack("hidden states as answers", Attacker.WIRE, SOURCE, run, _fails)
