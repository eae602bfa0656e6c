"""One audit: runs each attack for several seeds, and once with a wrong model as a control."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import Attack, PublicModel
from stip_keys.audit.evidence.subject import Subject, public_model_of
from stip_keys.audit.evidence.traffic import Dialogue, Traffic, record
from stip_keys.audit.evidence.truth import true_key
from stip_keys.audit.metrics import Measurement, measure
from stip_keys.audit.settings import AuditSettings
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.modes import head_name, scheme_name

# Called with a title before each run.
Step = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """What one attack found: a measurement for each seed, and the control's.

    `reason` says why the attack cannot or did not succeed, "" if nothing stopped it.
    `wrong_model` is the first seed's run with another public model; None where the attacker knows
    no model.
    """

    attack: Attack
    reason: str
    runs: Sequence[Measurement]
    wrong_model: Measurement | None


@dataclass(frozen=True)
class Audit:
    """One audit: its subject, its settings and its outcomes."""

    scheme: str
    head: str
    model: str
    settings: AuditSettings
    whole_key: bool  # whether all masks were compared, not only the client's
    outcomes: Sequence[Outcome]


def audit_bundles(
    subject: Subject,
    attacks: Sequence[Attack],
    dialogues: Sequence[Dialogue],
    settings: AuditSettings,
    master: MasterKey | None,
    step: Step = lambda _: None,
) -> Audit:
    """Run the attacks on the traffic of `dialogues` and compare their findings with the truth.

    At most half of the dialogues are sent: the others show attackers what such text is like.
    Without `master` only the client's masks are compared. Raises KeyFileError for a master key
    that did not make the bundles.
    """
    key = true_key(subject, master)
    settings = replace(settings, conversations=min(settings.conversations, len(dialogues) // 2))
    config = subject.manifest.model
    return Audit(
        scheme=scheme_name(subject.scheme),
        head=head_name(subject.head),
        model=f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.vocab_size} tokens",
        settings=settings,
        whole_key=master is not None,
        outcomes=run_attacks(subject, attacks, dialogues, key, settings, step),
    )


def run_attacks(
    subject: Subject,
    attacks: Sequence[Attack],
    dialogues: Sequence[Dialogue],
    key: Mapping[str, NDArray[Any]],
    settings: AuditSettings,
    step: Step = lambda _: None,
) -> list[Outcome]:
    """Run every attack once for each seed. A seed chooses which dialogues are sent.

    Attackers know the other dialogues as samples of the language. `key` is the truth that
    recovered masks are compared with. `step` is called with a title before each run.
    """
    wrong = None
    runs: list[list[Measurement]] = [[] for _ in attacks]
    controls: list[Measurement | None] = [None for _ in attacks]
    for seed in range(settings.seeds):
        order = np.random.default_rng(seed).permutation(len(dialogues)).tolist()
        chosen, others = order[: settings.conversations], order[settings.conversations :]
        traffic = record(subject, [dialogues[k] for k in chosen], [dialogues[k] for k in others])
        for k, attack in enumerate(attacks):
            step(f"{attack.name} ({attack.attacker.value}), seed {seed}")
            runs[k].append(_run(attack, traffic, key, None, settings.time_limit))
            if seed == 0 and attack.attacker.knows_model:
                wrong = wrong or wrong_model(subject.public)
                step(f"{attack.name} ({attack.attacker.value}), wrong model")
                controls[k] = _run(attack, traffic, key, wrong, settings.time_limit)
    outcomes = []
    for attack, measured, control in zip(attacks, runs, controls, strict=True):
        reason = attack.fails(subject.scheme, subject.head)
        reason = reason or next((each.reason for each in measured if each.reason), "")
        outcomes.append(Outcome(attack, reason, measured, control))
    return outcomes


def steps(attacks: Sequence[Attack], seeds: int) -> int:
    """How many runs `run_attacks` will make."""
    with_control = sum(each.attacker.knows_model for each in attacks)
    return seeds * len(attacks) + with_control


class RandomTensors(Mapping[str, NDArray[Any]]):
    """Random tensors with the shapes, means and deviations of others, drawn at each look-up."""

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
