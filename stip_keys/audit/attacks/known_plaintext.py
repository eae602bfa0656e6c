"""Known plaintext: a chat template begins and ends every prompt with the same tokens.

A known row names its token wherever an equal row is sent.
"""

from __future__ import annotations

from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows, template_tokens


def run(view: View) -> Findings:
    """The template's rows, and rows equal to them."""
    if view.template is None:
        return Findings(reason="prompts have no template")
    distinct = DistinctRows(view.conversations)
    return Findings(distinct.spread(template_tokens(view, distinct)[:, None]))


ATTACK = Attack(
    "known plaintext",
    Attacker.OBSERVER,
    "known-plaintext attack on a substitution: equal tokens are equal rows",
    run,
)
