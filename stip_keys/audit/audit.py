"""stip-keys audit: attacks the user's own bundles, and tells what they give away."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.audit.attack import Attack
from stip_keys.audit.evidence.prompts import make_prompts
from stip_keys.audit.evidence.subject import Subject
from stip_keys.audit.evidence.traffic import Dialogue, hold_dialogues
from stip_keys.audit.evidence.truth import true_key
from stip_keys.audit.plot import check_plot, draw
from stip_keys.audit.report import Audit, as_json, as_table
from stip_keys.audit.run import discover, run_attacks, steps
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.masks.errors import KeysError
from stip_keys.masks.key_file import read_master_key
from stip_keys.masks.keys import MasterKey
from stip_keys.masks.passphrase import PassphraseSource

TO_STDOUT = "-"


def run(arguments: argparse.Namespace) -> int:
    """Run the audit that a command line asks for; 0. Raises KeysError."""
    if arguments.plot:
        check_plot(arguments.plot)
    for path in (arguments.json, arguments.plot):
        if path not in (None, TO_STDOUT) and not Path(path).parent.is_dir():
            raise KeysError(f"cannot write {path}: {Path(path).parent} is not a folder")
    attacks = _chosen(arguments.attacks)
    subject = Subject(arguments.bundles, Checkpoint(arguments.checkpoint))
    master = _master_key(arguments)
    key = true_key(subject, master)
    dialogues = _dialogues(subject, arguments)
    subject.check_weights(dialogues[0].sent)

    conversations = min(arguments.conversations, len(dialogues) // 2)
    with _bar("attacks", steps(attacks, arguments.seeds)) as bar:

        def step(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        outcomes = run_attacks(
            subject,
            attacks,
            dialogues,
            key,
            seeds=arguments.seeds,
            conversations=conversations,
            time_limit=arguments.time_limit,
            step=step,
        )
    audit = Audit(
        scheme=subject.scheme,
        head=subject.head,
        model=describe(subject.manifest.model),
        seeds=arguments.seeds,
        conversations=conversations,
        reply_tokens=arguments.reply_tokens,
        time_limit=arguments.time_limit,
        whole_key=master is not None,
        outcomes=outcomes,
    )
    _tell(audit, arguments)
    return 0


def _master_key(arguments: argparse.Namespace) -> MasterKey | None:
    if arguments.key:
        return read_master_key(arguments.key, PassphraseSource(arguments.passphrase_file))
    if arguments.passphrase_file:
        raise KeysError("--passphrase-file opens the file of --key, and there is none")
    return None


def describe(config: ModelConfig) -> str:
    """A model in a few words."""
    return (
        f"{config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{config.vocab_size} tokens"
    )


def _chosen(names: str | None) -> list[Attack]:
    attacks = discover()
    if names is None:
        return attacks
    known = {option_name(each): None for each in attacks}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise KeysError(f"no attack is named {name!r}", hint=f"known: {', '.join(known)}")
    return [each for each in attacks if option_name(each) in wanted]


def option_name(attack: Attack) -> str:
    """What --attacks calls an attack: its words, joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9]+", attack.name.lower()))


def _dialogues(subject: Subject, arguments: argparse.Namespace) -> list[Dialogue]:
    prompts = make_prompts(subject.checkpoint, arguments.prompts)
    with _bar("replies", len(prompts) * arguments.reply_tokens) as bar:
        return hold_dialogues(
            subject.public, prompts, arguments.reply_tokens, subject.eos_token_ids, bar.update
        )


def _tell(audit: Audit, arguments: argparse.Namespace) -> None:
    text = json.dumps(as_json(audit), indent=2, ensure_ascii=False)
    if arguments.json == TO_STDOUT:
        print(text)
    else:
        if arguments.json:
            _write(Path(arguments.json), text + "\n")
        print(as_table(audit), end="")
    if arguments.plot:
        draw(audit, arguments.plot)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror}") from error


def _bar(name: str, total: int) -> tqdm[Any]:
    return tqdm(total=total, desc=name, disable=not sys.stderr.isatty(), leave=False)
