"""Hidden states after the middle layer, matched by running the public model."""

from __future__ import annotations

from stip_keys.audit.attack import Attack, Attacker
from stip_keys.audit.solvers.state_matching import SOURCE, decode_activations, num_layers

ATTACK = Attack(
    "hidden states, middle layer",
    Attacker.HOST,
    SOURCE,
    lambda view: decode_activations(view, max(1, num_layers(view) // 2)),
)
