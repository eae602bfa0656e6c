"""Known plaintext: a chat template begins and ends every prompt with the same tokens.

A row that is known names its token wherever an equal row is sent, whoever looks. Who has the
public model as well gets the mask: columns of known rows name a permutation, and inner products
with known rows name every other row under an orthogonal mask.
"""

from __future__ import annotations

import numpy as np

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import UNKNOWN, Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.inner_products import Products, decode
from stip_keys.audit.solvers.mask_from_rows import permutation_between
from stip_keys.audit.solvers.nearest import nearest
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import inverse


def run(view: View) -> Findings:
    """The template's rows, and rows equal to them."""
    if view.template is None:
        return Findings(reason="prompts have no template")
    distinct = DistinctRows(view.conversations)
    return Findings(distinct.spread(template_tokens(view, distinct)[:, None]))


def run_with_model(view: View) -> Findings:
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


def template_tokens(view: View, distinct: DistinctRows) -> Indices:
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


ATTACKS = (
    Attack(
        "known plaintext",
        Attacker.OBSERVER,
        "known-plaintext attack on a substitution: equal tokens are equal rows",
        run,
    ),
    Attack(
        "known plaintext and model",
        Attacker.WIRE,
        "known-plaintext attack on the mask: a few known rows determine a permutation",
        run_with_model,
    ),
)
