"""The attacks, one module each. The module code_book is the attack that --attacks calls code-book.

A new attack is a new module here that defines ATTACK. Attacks import from solvers, never from each
other, so that a run imports only the attacks that it runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from stip_keys.audit.attack import Attack, Attacker


def attack_names() -> list[str]:
    """The name of every attack in this folder. Imports none of them."""
    return [module.name.replace("_", "-") for module in iter_modules(__path__)]


def load_attacks(names: Iterable[str]) -> list[Attack]:
    """Import some attacks. Those whose attacker knows most come last."""
    modules = [import_module(f"{__name__}.{name.replace('-', '_')}") for name in names]
    attacks: list[Attack] = [module.ATTACK for module in modules]
    ranks = list(Attacker)
    return sorted(attacks, key=lambda attack: (ranks.index(attack.attacker), attack.name))
