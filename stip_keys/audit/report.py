"""An audit as a table and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stip_keys.audit.attack import Attacker
from stip_keys.audit.evidence.prompt_text import KINDS
from stip_keys.audit.metrics import Measurement, Share, Spread
from stip_keys.audit.run import Audit, Outcome

KNOWS = {
    Attacker.OBSERVER: "traffic",
    Attacker.WIRE: "traffic, model",
    Attacker.HOST_WITHOUT_MODEL: "traffic, bundle, activations",
    Attacker.HOST: "traffic, bundle, activations, model",
}
HEADINGS = (
    "attack",
    "attacker",
    "knows",
    *KINDS,
    "prompts",
    "key",
    "wrong model",
    "s",
)
NOTE = """\
template, user, reply: tokens recovered at the first guess (among ten guesses), median of {seeds} \
seeds, [range] where they differ.
prompts: those whose every user token is recovered. key: entries of the secret masks recovered, of \
{compared}.
wrong model: user tokens recovered when the attacker's model is another one; should be about chance.
≥: the attack ran out of time (--time-limit) and could have found more.
Every attacker knows the tokenizer, the chat template, and what such text is like elsewhere.
"""
WIDTH = 100
NOTHING = "-"


def as_table(audit: Audit) -> str:
    """The audit as text: a table in columns, and why some fail or stop."""
    rows = [HEADINGS, *(_row(outcome) for outcome in audit.outcomes)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS))]
    lines = [
        "  ".join(f"{cell:<{widths[k]}}" for k, cell in enumerate(row)).rstrip() for row in rows
    ]
    compared = "all masks" if audit.whole_key else "the client's masks (all of them with --key)"
    reasons = [
        textwrap.fill(
            f"{each.attack.name} ({each.attack.attacker.value}): {each.reason}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
        )
        for each in audit.outcomes
        if each.reason
    ]
    text = (
        f"scheme {audit.scheme}, head {audit.head}: {audit.model}, "
        f"{audit.settings.conversations} conversations a seed\n\n"
        + "\n".join(lines)
        + "\n\n"
        + NOTE.format(seeds=audit.settings.seeds, compared=compared)
    )
    if reasons:
        text += "\nwhy attacks fail or stop:\n" + "\n".join(reasons) + "\n"
    return text


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit as JSON: shares 0..1, and every seed's own figures."""
    return {
        "scheme": audit.scheme,
        "head": audit.head,
        "model": audit.model,
        **asdict(audit.settings),
        "whole_key": audit.whole_key,
        "attacks": [_outcome_as_json(outcome) for outcome in audit.outcomes],
    }


def share_of(outcome: Outcome, kind: str, *, width: int = 1) -> Spread | None:
    """Tokens of a kind that were recovered, over the seeds; `width` 1 or 10."""
    runs = [each.top_1 if width == 1 else each.top_10 for each in outcome.runs]
    return Spread.of(each[kind].value for each in runs)


def key_of(outcome: Outcome) -> Spread | None:
    """Entries of the key that were recovered, over the seeds."""
    return Spread.of(each.key.value for each in outcome.runs)


def percent(spread: Spread | None) -> str:
    """A share in percent, with its range where the runs differ."""
    if spread is None:
        return NOTHING
    median, low, high = (_percent(value) for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} [{low}–{high}]"


def _row(outcome: Outcome) -> tuple[str, ...]:
    seconds = Spread.of(each.seconds for each in outcome.runs)
    control = outcome.wrong_model
    return (
        outcome.attack.name,
        outcome.attack.attacker.value,
        KNOWS[outcome.attack.attacker],
        *(_tokens(outcome, kind) for kind in KINDS),
        _least(outcome.runs, percent(Spread.of(each.prompts.value for each in outcome.runs))),
        percent(key_of(outcome)),
        NOTHING
        if control is None
        else _least([control], percent(Spread.of([control.top_1["user"].value]))),
        f"{seconds.median:.2f}" if seconds else NOTHING,
    )


def _tokens(outcome: Outcome, kind: str) -> str:
    first, ten = share_of(outcome, kind), share_of(outcome, kind, width=10)
    if first is None or ten is None:
        return NOTHING
    among = _percent(ten.median)
    found = percent(first) if among == _percent(first.median) else f"{percent(first)} ({among})"
    return _least(outcome.runs, found)


def _least(runs: Sequence[Measurement], found: str) -> str:
    """A share, marked where more time could have found more."""
    return f"≥{found}" if found != NOTHING and any(each.stopped for each in runs) else found


def _percent(share: float) -> str:
    """A share in percent. Only exactly 0 and 1 are shown as 0 and 100."""
    if 0 < share < 0.0005 or 0.9995 < share < 1:
        return "<0.1" if share < 0.5 else ">99.9"
    return f"{100 * share:.1f}".removesuffix(".0")


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.attack.name,
        "attacker": outcome.attack.attacker.value,
        "knows": KNOWS[outcome.attack.attacker],
        "source": outcome.attack.source,
        "reason": outcome.reason,
        "runs": [_measurement_as_json(each) for each in outcome.runs],
        "wrong_model": outcome.wrong_model and _measurement_as_json(outcome.wrong_model),
    }


def _measurement_as_json(each: Measurement) -> dict[str, Any]:
    return {
        "top_1": _shares_as_json(each.top_1),
        "top_10": _shares_as_json(each.top_10),
        "exact_prompts": each.prompts.value,
        "key": each.key.value,
        "seconds": round(each.seconds, 3),
        "reason": each.reason,
        "stopped": each.stopped,
    }


def _shares_as_json(shares: Mapping[str, Share]) -> dict[str, float | None]:
    return {kind: share.value for kind, share in shares.items()}
