"""The first layer's attention scores, which no mask can change without changing the answer.

A token's score with itself is one number for each head, at every position: a table over the
vocabulary. Heads are in a secret order, so these numbers are first compared sorted. Tokens that are
certain then reveal the order. Scores with the other tokens of the conversation decide between the
remaining candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import Attack, Attacker, Findings, PublicModel, Tokens, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.nearest import nearest, pieces, sorted_values
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices

# The nearest token is certain if the next is this many times as far.
CLEARLY = 4.0
# Self scores with a larger relative distance come from another model.
UNLIKE = 0.2
SWEEPS = 2

Float32 = NDArray[np.float32]


def run(view: View) -> Findings:
    """Every row's token by its scores, and the order of the first layer's heads."""
    assert view.public is not None and view.activations is not None
    scores = [each.scores for each in view.activations]
    distinct = DistinctRows(view.conversations)
    seen = np.empty((len(distinct.rows), len(scores[0])), np.float32)
    for where, of_conversation in zip(distinct.where, scores, strict=True):
        seen[where] = np.diagonal(of_conversation, axis1=1, axis2=2).T
    table = _self_scores(view.public)
    tokens, distances = nearest(sorted_values(seen), table, sorted_values)
    relative = np.sqrt(distances[:, 0]) / np.linalg.norm(seen, axis=1)
    if np.median(relative) > UNLIKE:
        return Findings(
            distinct.spread(tokens), reason="no token's scores with itself are like those seen"
        )
    certain = distances[:, 1] > CLEARLY**2 * distances[:, 0]
    order = _order_of_heads(seen[certain], table[tokens[certain, 0]])
    if order is None:
        return Findings(
            distinct.spread(tokens), reason="heads score too similarly to distinguish them"
        )
    tokens, _ = nearest(seen, table, lambda rows: rows[:, order])
    for _ in range(SWEEPS):
        tokens = _by_other_tokens(view.public, scores, distinct, order, tokens)
    return Findings(distinct.spread(tokens), key=_key(view.public, order))


def _self_scores(public: PublicModel) -> Float32:
    """Every token's score with itself, by the public model's heads: [vocab_size, heads]."""
    config, embedding = public.config, public.embedding
    table = np.empty((len(embedding), config.num_attention_heads), np.float32)
    width = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    for piece in pieces(len(embedding), width + config.hidden_size):
        rows = embedding[piece].astype(np.float32)
        queries, keys = public.decoder.queries_and_keys(rows, np.zeros(len(rows), np.int64))
        group = queries.shape[1] // keys.shape[1]
        table[piece] = np.einsum("rhd,rhd->rh", queries, np.repeat(keys, group, axis=1))
    return table / np.float32(np.sqrt(config.head_dim))


def _order_of_heads(seen: Float32, known: Float32) -> Indices | None:
    """The model's head in each of the server's slots, None where no permutation fits best."""
    if not len(seen):
        return None
    errors = ((seen[:, :, None] - known[:, None, :]) ** 2).sum(axis=0)
    order = errors.argmin(axis=1)
    return order if len(np.unique(order)) == len(order) else None


def _by_other_tokens(
    public: PublicModel,
    scores: Sequence[Float32],
    distinct: DistinctRows,
    order: Indices,
    tokens: Tokens,
) -> Tokens:
    """Candidates, sorted by how well their scores with all tokens of a conversation fit."""
    ranked = tokens.copy()
    decided = np.zeros(len(tokens), np.bool_)
    for where, of_conversation in zip(distinct.where, scores, strict=True):
        count = len(where)
        others = public.embedding[tokens[where, 0]]
        queries, keys = public.decoder.queries_and_keys(others, np.arange(count))
        group = queries.shape[1] // keys.shape[1]
        keys = np.repeat(keys, group, axis=1)
        scale = np.float32(np.sqrt(queries.shape[2]))
        for position, row in enumerate(where):
            if decided[row]:
                continue
            decided[row] = True
            candidates = tokens[row]
            own_queries, own_keys = public.decoder.queries_and_keys(
                public.embedding[candidates], np.full(len(candidates), position)
            )
            own_keys = np.repeat(own_keys, group, axis=1)
            asked = np.einsum("chd,jhd->chj", own_queries, keys) / scale
            answered = np.einsum("jhd,chd->chj", queries, own_keys) / scale
            own = np.einsum("chd,chd->ch", own_queries, own_keys) / scale
            # a candidate's score with itself uses its own key, not the earlier choice's
            asked[:, :, position] = answered[:, :, position] = own
            errors = (asked[:, order] - of_conversation[:, position, :]) ** 2
            errors += (answered[:, order] - of_conversation[:, :, position]) ** 2
            ranked[row] = candidates[np.argsort(errors.sum(axis=(1, 2)), kind="stable")]
    return ranked


def _key(public: PublicModel, order: Indices) -> dict[str, Indices]:
    """The order of the first layer's heads by SPEC.md's labels, where groups stay together."""
    group = public.config.num_attention_heads // public.config.num_key_value_heads
    slots = order.reshape(-1, group)
    heads = slots[:, 0] // group
    if not (slots // group == heads[:, None]).all():
        return {}
    key = {derivation.heads_label(0): heads}
    for head, members in zip(map(int, heads), slots % group, strict=True):
        key[derivation.group_label(0, head)] = members
    return key


ATTACK = Attack(
    "attention scores",
    Attacker.HOST,
    "a mask that keeps the answer keeps query-key products: their values are a fingerprint of "
    "the tokens (as in Thomas et al., Hidden No More, ICML 2025, for hidden states)",
    run,
)
