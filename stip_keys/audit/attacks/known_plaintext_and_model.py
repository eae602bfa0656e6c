"""Known plaintext with the public model: the chat template's rows give the mask away.

The columns of known rows name a permutation. Inner products with known rows name every other row
under an orthogonal mask.
"""

from __future__ import annotations

import numpy as np

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import UNKNOWN, Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows, template_tokens
from stip_keys.audit.solvers.inner_products import Products, decode
from stip_keys.audit.solvers.mask_from_rows import permutation_between
from stip_keys.audit.solvers.nearest import nearest
from stip_keys.masks.permutation import inverse


def run(view: View) -> Findings:
    """Every row, by the mask that the template's rows give away."""
    if view.template is None:
        return Findings(reason="prompts have no template")
    assert view.public is not None
    embedding = view.public.embedding
    distinct = DistinctRows(view.conversations)
    tokens = template_tokens(view, distinct)
    rows = np.nonzero(tokens != UNKNOWN)[0]
    if view.scheme == Scheme.SCHEME_ROTATION:
        products = Products(distinct.rows)
        return Findings(distinct.spread(decode(products, embedding, rows, tokens[rows])))
    p_0 = permutation_between(embedding[tokens[rows]], distinct.rows[rows])
    if p_0 is None:
        return Findings(
            distinct.spread(tokens[:, None]),
            reason="the template's rows do not have the values that the model gives them",
        )
    plain = distinct.rows[:, inverse(p_0)].astype(np.float32)
    return Findings(distinct.spread(nearest(plain, embedding)[0]), key={"residual/0": p_0})


ATTACK = Attack(
    "known plaintext and model",
    Attacker.WIRE,
    "known-plaintext attack on the mask: a few known rows determine a permutation",
    run,
)
