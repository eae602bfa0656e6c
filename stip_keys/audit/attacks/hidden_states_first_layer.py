"""Hidden states after the first layer, matched by running the public model."""

from __future__ import annotations

from stip_keys.audit.attack import Attack, Attacker
from stip_keys.audit.solvers.state_matching import SOURCE, decode_activations

ATTACK = Attack(
    "hidden states, first layer",
    Attacker.HOST,
    SOURCE,
    lambda view: decode_activations(view, 1),
)
