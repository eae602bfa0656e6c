"""One audit: runs attacks on the user's own bundles and measures what they recover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.audit.attack import Attack
from stip_keys.audit.evidence.subject import Subject
from stip_keys.audit.evidence.traffic import Dialogue
from stip_keys.audit.evidence.truth import true_key
from stip_keys.audit.run import Outcome, Step, run_attacks
from stip_keys.audit.settings import AuditSettings
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.modes import head_name, scheme_name


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
    return Audit(
        scheme=scheme_name(subject.scheme),
        head=head_name(subject.head),
        model=_describe(subject.manifest.model),
        settings=settings,
        whole_key=master is not None,
        outcomes=run_attacks(subject, attacks, dialogues, key, settings, step),
    )


def _describe(config: ModelConfig) -> str:
    return (
        f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.vocab_size} tokens"
    )
