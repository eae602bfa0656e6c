"""Sorted values of a masked row against the sorted public embedding.

A permutation moves a row's values and changes none, so the sorted row is the sorted embedding.
"""

from __future__ import annotations

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.mask_from_rows import permutation_between
from stip_keys.audit.solvers.nearest import nearest, sorted_values


def run(view: View) -> Findings:
    """The tokens whose embeddings have the values most like each row's, and the permutation."""
    assert view.public is not None
    distinct = DistinctRows(view.conversations)
    tokens, _ = nearest(sorted_values(distinct.rows), view.public.embedding, sorted_values)
    p_0 = permutation_between(view.public.embedding[tokens[:, 0]], distinct.rows)
    return Findings(distinct.spread(tokens), key={} if p_0 is None else {"residual/0": p_0})


def _fails(scheme: Scheme, _: Head) -> str:
    if scheme == Scheme.SCHEME_ROTATION:
        return "a rotation mixes a row's values, and keeps none of them"
    return ""


ATTACK = Attack(
    "sorted values",
    Attacker.WIRE,
    "Thomas et al., Hidden No More (ICML 2025): sorting undoes a permutation",
    run,
    _fails,
)
