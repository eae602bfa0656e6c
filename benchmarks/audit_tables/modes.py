"""Audits the demo model in every mode of a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stip_keys.audit.attacks import attack_names, load_attacks
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject, public_model
from stip_keys.audit.evidence.traffic import hold_dialogues
from stip_keys.audit.run import Audit, audit_bundles
from stip_keys.audit.settings import AuditSettings
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
    settings: AuditSettings = AuditSettings(),  # noqa: B008 - frozen
    report: Callable[[str], object] = lambda _: None,
) -> dict[Mode, Audit]:
    """Convert the checkpoint in each mode, into `folder`, and run every attack on it.

    The keys come from a base seed, so that another run finds the same. `report` is called with one
    line for each mode.
    """
    read = Checkpoint(checkpoint)
    dialogues = hold_dialogues(
        public_model(read), make_prompts(read, None), settings.reply_tokens, read.eos_token_ids()
    )
    attacks = load_attacks(attack_names())
    audits = {}
    for mode in modes:
        begun = time.perf_counter()
        subject = make_subject(folder, mode, read)
        master = None if mode.scheme == "none" else MasterKey.from_base_seed(BASE_SEED)
        audits[mode] = audit_bundles(subject, attacks, dialogues, settings, master)
        report(f"{mode.name}: {time.perf_counter() - begun:.1f} s")
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
