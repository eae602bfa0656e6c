"""Norms of masked rows, and then the inner products between them.

An orthogonal mask, and so a permutation too, keeps both. Norms leave few candidates for a token;
a few rows' inner products with each other leave one choice; and inner products with these name the
rest.
"""

from __future__ import annotations

from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.distinct import DistinctRows
from stip_keys.audit.inner_products import (
    Products,
    consistent_anchors,
    decode,
    nearest_norms,
    squared_norms,
)


def run(view: View) -> Findings:
    """Every row's token by its inner products, or by its norm alone where these agree with none."""
    assert view.public is not None
    embedding = view.public.embedding
    distinct = DistinctRows(view.conversations)
    products = Products(distinct.rows)
    norms = squared_norms(embedding)
    anchors = consistent_anchors(products, embedding, norms)
    if anchors is None:
        return Findings(
            distinct.spread(nearest_norms(products, norms)),
            reason="no choice of tokens agrees with the inner products: norms alone were compared",
        )
    return Findings(distinct.spread(decode(products, embedding, *anchors)))


ATTACK = Attack(
    "row norms and inner products",
    Attacker.WIRE,
    "orthogonal Procrustes: rows that are known up to a rotation are known by their Gram matrix "
    "(Schönemann, 1966); here its entries are matched first",
    run,
)
