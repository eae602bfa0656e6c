"""Audits the demo model in every mode that a bundle can be made in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stip_keys.audit import CONVERSATIONS, REPLY_TOKENS, SEEDS, TIME_LIMIT
from stip_keys.audit.attack import Attack
from stip_keys.audit.audit import describe
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject, public_model
from stip_keys.audit.evidence.traffic import Dialogue, hold_dialogues
from stip_keys.audit.evidence.truth import true_key
from stip_keys.audit.report import Audit
from stip_keys.audit.run import discover, run_attacks
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.masks.keys import MasterKey
from tests.support.parties import BASE_SEED, convert

DEMO_MODEL = Path(__file__).parents[2] / "stip_client" / "cli" / "demo_model"


@dataclass(frozen=True)
class Mode:
    """How a bundle is made: `stip-keys convert --scheme … --head …`."""

    scheme: str
    head: str

    @property
    def name(self) -> str:
        return f"{self.scheme}, {self.head}"


MODES = (
    Mode("none", "server"),
    *(
        Mode(scheme, head)
        for scheme in ("permutation", "rotation")
        for head in ("server", "client", "sealed")
    ),
)


def audit_modes(
    folder: Path,
    modes: Iterable[Mode] = MODES,
    *,
    checkpoint: Path = DEMO_MODEL,
    attacks: Sequence[Attack] | None = None,
    seeds: int = SEEDS,
    conversations: int = CONVERSATIONS,
    reply_tokens: int = REPLY_TOKENS,
    told: Callable[[str], object] = lambda _: None,
) -> dict[Mode, Audit]:
    """Convert the checkpoint in each mode, into `folder`, and run the attacks on it.

    The keys are those of a base seed, so that another run finds the same.
    """
    read = Checkpoint(checkpoint)
    dialogues = hold_dialogues(
        public_model(read), make_prompts(read, None), reply_tokens, read.eos_token_ids()
    )
    attacks = discover() if attacks is None else attacks
    audits = {}
    for mode in modes:
        begun = time.perf_counter()
        subject = make_subject(folder, mode, read)
        audits[mode] = audit(subject, attacks, dialogues, seeds, conversations, reply_tokens)
        told(f"{mode.name}: {time.perf_counter() - begun:.1f} s")
    return audits


def make_subject(folder: Path, mode: Mode, checkpoint: Checkpoint) -> Subject:
    """The bundles of one mode."""
    how = ["--scheme", mode.scheme]
    if mode.scheme != "none":
        how += ["--base-seed", str(BASE_SEED)]
    if mode.head != "server":
        how += ["--head", mode.head]
    bundles = convert(checkpoint.folder, folder / f"{mode.scheme}-{mode.head}", *how)
    return Subject(bundles, checkpoint)


def audit(
    subject: Subject,
    attacks: Sequence[Attack],
    dialogues: Sequence[Dialogue],
    seeds: int,
    conversations: int,
    reply_tokens: int,
) -> Audit:
    """Run the attacks on one mode, and compare with the whole key."""
    hides = subject.client_key.scheme != "none"
    key = true_key(subject, MasterKey.from_base_seed(BASE_SEED) if hides else None)
    outcomes = run_attacks(
        subject, attacks, dialogues, key, seeds=seeds, conversations=conversations
    )
    return Audit(
        scheme=subject.scheme,
        head=subject.head,
        model=describe(subject.manifest.model),
        seeds=seeds,
        conversations=conversations,
        reply_tokens=reply_tokens,
        time_limit=TIME_LIMIT,
        whole_key=True,
        outcomes=outcomes,
    )
