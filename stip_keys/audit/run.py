"""Runs the attacks: each over several seeds, and once with a model that is not the right one."""

from __future__ import annotations

import importlib
import pkgutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stip_keys.audit.attacks
from stip_keys.audit import CONVERSATIONS, SEEDS, TIME_LIMIT
from stip_keys.audit.attack import Attack, Attacker, PublicModel
from stip_keys.audit.evidence.subject import Subject, public_model_of
from stip_keys.audit.evidence.traffic import Dialogue, Traffic, record
from stip_keys.audit.metrics import Measurement, measure

# Told what is run next.
Step = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """What one attack found: a measurement for each seed, and the control's.

    `reason`: why it cannot succeed, or what kept it from it; "" where nothing does. `wrong_model`:
    the first seed's run with another public model; None where the attacker knows no model.
    """

    attack: Attack
    reason: str
    runs: Sequence[Measurement]
    wrong_model: Measurement | None


def discover() -> list[Attack]:
    """Every attack of this package, attackers who know most last."""
    attacks: list[Attack] = []
    for module_info in pkgutil.iter_modules(stip_keys.audit.attacks.__path__):
        module = importlib.import_module(f"{stip_keys.audit.attacks.__name__}.{module_info.name}")
        attacks += getattr(module, "ATTACKS", ())
        if (attack := getattr(module, "ATTACK", None)) is not None:
            attacks.append(attack)
    order = [Attacker.OBSERVER, Attacker.WIRE, Attacker.HOST_WITHOUT_MODEL, Attacker.HOST]
    return sorted(attacks, key=lambda attack: (order.index(attack.attacker), attack.name))


def run_attacks(
    subject: Subject,
    attacks: Sequence[Attack],
    dialogues: Sequence[Dialogue],
    key: Mapping[str, NDArray[Any]],
    *,
    seeds: int = SEEDS,
    conversations: int = CONVERSATIONS,
    time_limit: float = TIME_LIMIT,
    step: Step = lambda _: None,
) -> list[Outcome]:
    """Run every attack on the traffic of `seeds` choices of `conversations` of the dialogues.

    The other dialogues of each choice are what attackers know of the language. `key` is the truth
    that recovered masks are compared with. A run that searches ends after `time_limit` seconds.
    `step` is told of each run before it.
    """
    wrong = None
    runs: list[list[Measurement]] = [[] for _ in attacks]
    controls: list[Measurement | None] = [None for _ in attacks]
    for seed in range(seeds):
        traffic = _choose(subject, dialogues, conversations, seed)
        for k, attack in enumerate(attacks):
            step(f"{attack.name} ({attack.attacker.value}), seed {seed}")
            runs[k].append(_run(attack, traffic, key, None, time_limit))
            if seed == 0 and attack.attacker in (Attacker.WIRE, Attacker.HOST):
                wrong = wrong or wrong_model(subject.public)
                step(f"{attack.name} ({attack.attacker.value}), wrong model")
                controls[k] = _run(attack, traffic, key, wrong, time_limit)
    return [
        Outcome(attack, _reason(attack, subject, runs[k]), runs[k], controls[k])
        for k, attack in enumerate(attacks)
    ]


def steps(attacks: Sequence[Attack], seeds: int) -> int:
    """How many runs `run_attacks` will make."""
    with_control = sum(each.attacker in (Attacker.WIRE, Attacker.HOST) for each in attacks)
    return seeds * len(attacks) + with_control


class RandomTensors(Mapping[str, NDArray[Any]]):
    """Tensors of the shapes, means and deviations of others, drawn anew whenever asked for."""

    def __init__(self, like: Mapping[str, NDArray[Any]], seed: int) -> None:
        self._like = like
        self._seed = seed

    def __getitem__(self, name: str) -> NDArray[Any]:
        like = self._like[name]
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        drawn = rng.standard_normal(like.shape, np.float32)
        drawn *= like.std()
        drawn += like.mean()
        return drawn

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


def wrong_model(right: PublicModel, seed: int = 0) -> PublicModel:
    """Another checkpoint of the same shape, for the control."""
    return public_model_of(right.config, RandomTensors(right.tensors, seed))


def _choose(
    subject: Subject, dialogues: Sequence[Dialogue], conversations: int, seed: int
) -> Traffic:
    order = np.random.default_rng(seed).permutation(len(dialogues)).tolist()
    chosen, others = order[:conversations], order[conversations:]
    return record(subject, [dialogues[k] for k in chosen], [dialogues[k] for k in others])


def _run(
    attack: Attack,
    traffic: Traffic,
    key: Mapping[str, NDArray[Any]],
    public: PublicModel | None,
    time_limit: float,
) -> Measurement:
    view = replace(traffic.view(attack.attacker, public), time_limit=time_limit)
    begun = time.perf_counter()
    findings = attack.run(view)
    return measure(findings, traffic.dialogues, key, time.perf_counter() - begun)


def _reason(attack: Attack, subject: Subject, runs: Sequence[Measurement]) -> str:
    told = [each.reason for each in runs if each.reason]
    return attack.fails(subject.scheme, subject.head) or (told[0] if told else "")
