"""Frequencies of repeated rows: needs the language's word frequencies, and not the model.

Every mask sends equal tokens as equal rows. The most frequent row is taken for the most frequent
token, the second for the second, and so on.
"""

from __future__ import annotations

import numpy as np

from stip_keys.audit.attack import UNKNOWN, WIDTH, Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows


def run(view: View) -> Findings:
    """Every row's token by the rank of its frequency; neighbouring ranks are further candidates."""
    if view.language is None:
        return Findings(reason="nothing is known of the language")
    distinct = DistinctRows(view.conversations)
    frequencies = view.language.unigrams
    tokens = np.argsort(-frequencies, kind="stable")[: np.count_nonzero(frequencies)]
    ranks = np.empty(len(distinct.rows), np.int64)
    ranks[np.argsort(-distinct.counts, kind="stable")] = np.arange(len(ranks))
    # 0, 1, -1, 2, -2, … ranks away
    offsets = np.arange(1, WIDTH + 1) // 2 * np.where(np.arange(WIDTH) % 2, 1, -1)
    places = ranks[:, None] + offsets
    known = (places >= 0) & (places < len(tokens))
    candidates = np.full(places.shape, UNKNOWN)
    candidates[known] = tokens[places[known]]
    return Findings(distinct.spread(candidates))


ATTACK = Attack(
    "repeated rows",
    Attacker.OBSERVER,
    "frequency analysis of a substitution (al-Kindi, 9th century)",
    run,
)
