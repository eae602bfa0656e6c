"""stip-keys audit: attacks the user's own bundles, and prints what they reveal."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from stip_keys.audit.attacks import attack_names, load_attacks
from stip_keys.audit.settings import AuditSettings
from stip_keys.commands.options import add_passphrase_file, read_key
from stip_keys.masks.errors import KeysError
from stip_keys.masks.key_file import read_master_key

if TYPE_CHECKING:
    from stip_keys.audit.run import Audit

TO_STDOUT = "-"

EPILOG = """\
examples:
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct --key master.key --plot audit.png
  stip-keys audit bundles --checkpoint Qwen2.5-3B-Instruct --attacks sorted-values --json

attacks:
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    names = textwrap.fill(", ".join(attack_names()), break_on_hyphens=False)
    parser = commands.add_parser(
        "audit",
        help="attack your own bundles and print what they reveal",
        description="Run published attacks on the bundles' traffic, as each party could, and print "
        "how many tokens and how much of the key they recover.",
        epilog=EPILOG + textwrap.indent(names, "  "),
        allow_abbrev=False,  # --passphrase SECRET must not pass for --passphrase-file
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", type=Path, metavar="OUT", help="the folder that convert wrote")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="SRC",
        help="the checkpoint that the bundles were converted from",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="master key, to check all recovered masks (default: only the client's masks)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one prompt a line, as text or as a JSON list of token ids; attackers learn what such "
        "text is like from the prompts that are not sent (default: built-in prompts)",
    )
    for option, default, metavar, meaning in (
        ("--seeds", AuditSettings.seeds, "N", "how often to choose prompts and attack them"),
        (
            "--conversations",
            AuditSettings.conversations,
            "N",
            "prompts sent for each seed, at most half of all",
        ),
        ("--reply-tokens", AuditSettings.reply_tokens, "N", "longest reply, in tokens"),
        (
            "--time-limit",
            AuditSettings.time_limit,
            "SECONDS",
            "longest run of an attack that searches with the model; it is measured by what it has "
            "found by then",
        ),
    ):
        parser.add_argument(
            option,
            type=_positive,
            default=default,
            metavar=metavar,
            help=f"{meaning} (default: %(default)s)",
        )
    parser.add_argument(
        "--attacks",
        metavar="A,B",
        help="run only these attacks, as listed below (default: all)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=TO_STDOUT,
        metavar="FILE",
        help="write JSON to FILE, or print it instead of the table",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a .png or .svg")
    add_passphrase_file(parser, "--passphrase-file", "--key")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # imported here: other commands would start more slowly
    from stip_keys.audit.evidence.prompts import make_prompts
    from stip_keys.audit.evidence.subject import Subject
    from stip_keys.audit.evidence.traffic import hold_dialogues
    from stip_keys.audit.evidence.truth import true_key
    from stip_keys.audit.plot import check_plot
    from stip_keys.audit.run import audit_bundles, steps
    from stip_keys.convert.checkpoint import Checkpoint

    if arguments.plot:
        check_plot(arguments.plot)
    for path in (arguments.json, arguments.plot):
        if path not in (None, TO_STDOUT) and not Path(path).parent.is_dir():
            raise KeysError(f"cannot write {path}: {Path(path).parent} is not a folder")
    attacks = load_attacks(_chosen(arguments.attacks))
    settings = AuditSettings(
        arguments.seeds, arguments.conversations, arguments.reply_tokens, arguments.time_limit
    )
    subject = Subject(arguments.bundles, Checkpoint(arguments.checkpoint))
    master = read_key(read_master_key, arguments.key, arguments.passphrase_file)
    true_key(subject, master)  # refuses a wrong key before the long part
    prompts = make_prompts(subject.checkpoint, arguments.prompts)
    with _bar("replies", len(prompts) * settings.reply_tokens) as bar:
        dialogues = hold_dialogues(
            subject.public, prompts, settings.reply_tokens, subject.eos_token_ids, bar.update
        )
    subject.check_weights(dialogues[0].sent)
    with _bar("attacks", steps(attacks, settings.seeds)) as bar:

        def step(title: str) -> None:
            bar.set_postfix_str(title)
            bar.update()

        audit = audit_bundles(subject, attacks, dialogues, settings, master, step)
    _print(audit, arguments)
    return 0


def _chosen(names: str | None) -> list[str]:
    known = attack_names()
    if names is None:
        return known
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise KeysError(f"no attack is named {name!r}", hint=f"known: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _print(audit: Audit, arguments: argparse.Namespace) -> None:
    from stip_keys.audit.plot import draw
    from stip_keys.audit.report import as_json, as_table

    text = json.dumps(as_json(audit), indent=2, ensure_ascii=False)
    if arguments.json == TO_STDOUT:
        print(text)
    else:
        if arguments.json:
            try:
                Path(arguments.json).write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                raise KeysError(f"cannot write {arguments.json}: {error.strerror}") from error
        print(as_table(audit), end="")
    if arguments.plot:
        draw(audit, arguments.plot)


def _bar(name: str, total: int) -> tqdm[Any]:
    return tqdm(total=total, desc=name, disable=not sys.stderr.isatty(), leave=False)


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value
