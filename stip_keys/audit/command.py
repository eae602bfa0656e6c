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
from stip_keys.audit.plot import check_plot, draw
from stip_keys.audit.prompts import make_prompts
from stip_keys.audit.report import Audit, as_json, as_table
from stip_keys.audit.run import discover, run_attacks, steps
from stip_keys.audit.subject import Subject
from stip_keys.audit.traffic import Dialogue, hold_dialogues
from stip_keys.audit.truth import true_key
from stip_keys.checkpoint import Checkpoint
from stip_keys.errors import KeysError
from stip_keys.keyfile import read_master_key

SEEDS, CONVERSATIONS, REPLY_TOKENS = 3, 8, 24
EPILOG = """\
examples:
  stip-keys audit stip_model --checkpoint Qwen2.5-3B-Instruct
  stip-keys audit stip_model --checkpoint Qwen2.5-3B-Instruct --key master.key --plot audit.png
  stip-keys audit stip_model --checkpoint Qwen2.5-3B-Instruct --attacks sorted-values --json
"""
TO_STDOUT = "-"


def add_command(commands: Any) -> None:
    """Add the command to stip-keys' parser: `commands` is what add_subparsers returned."""
    audit = commands.add_parser(
        "audit",
        help="attack your own bundles, and see what they give away",
        description="Run published attacks on traffic that the bundles make, as each party could, "
        "and print how many tokens and how much of the key they recover.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument("bundles", type=Path, metavar="OUT", help="the folder that convert wrote")
    audit.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="SRC",
        help="the checkpoint they were converted from",
    )
    audit.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="master key, to compare recovered masks with (default: the client's key alone)",
    )
    audit.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one prompt a line, as text or as a JSON list of token ids; those that are not sent "
        "show the attackers what such text is like (default: built-in ones)",
    )
    audit.add_argument(
        "--seeds", type=_positive, default=SEEDS, metavar="N", help=f"choices of prompts ({SEEDS})"
    )
    audit.add_argument(
        "--conversations",
        type=_positive,
        default=CONVERSATIONS,
        metavar="N",
        help=f"prompts sent for each seed, at most half of all ({CONVERSATIONS})",
    )
    audit.add_argument(
        "--reply-tokens",
        type=_positive,
        default=REPLY_TOKENS,
        metavar="N",
        help=f"longest reply ({REPLY_TOKENS})",
    )
    audit.add_argument(
        "--attacks",
        metavar="A,B",
        help="only these, their words joined by hyphens, as sorted-values (default: all)",
    )
    audit.add_argument(
        "--json",
        nargs="?",
        const=TO_STDOUT,
        metavar="FILE",
        help="write JSON to FILE, or print it instead of the table",
    )
    audit.add_argument("--plot", type=Path, metavar="FILE", help="draw a .png or .svg")
    audit.set_defaults(run=_audit)


def _audit(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        check_plot(arguments.plot)
    for path in (arguments.json, arguments.plot):
        if path not in (None, TO_STDOUT) and not Path(path).parent.is_dir():
            raise KeysError(f"cannot write {path}: {Path(path).parent} is not a folder")
    attacks = _chosen(arguments.attacks)
    subject = Subject(arguments.bundles, Checkpoint(arguments.checkpoint))
    master = read_master_key(arguments.key) if arguments.key else None
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
            step=step,
        )
    audit = Audit(
        scheme=subject.scheme,
        head=subject.head,
        model=describe(subject.manifest.model),
        seeds=arguments.seeds,
        conversations=conversations,
        reply_tokens=arguments.reply_tokens,
        whole_key=master is not None,
        outcomes=outcomes,
    )
    _tell(audit, arguments)
    return 0


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


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value
