"""How much of the truth an attack has found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_keys.audit.attack import Findings, Tokens
from stip_keys.audit.evidence.prompt_text import KINDS, REPLY, USER
from stip_keys.audit.evidence.traffic import Dialogue

# How closely a column of a recovered rotation must point where the true one does.
SAME_DIRECTION = 0.99


@dataclass(frozen=True)
class Share:
    """`right` of `total`."""

    right: int
    total: int

    @property
    def value(self) -> float | None:
        """The share, 0..1; None if `total` is 0."""
        return self.right / self.total if self.total else None


@dataclass(frozen=True)
class Measurement:
    """One run of one attack against the truth.

    `top_1` and `top_10`: tokens recovered, by KINDS. `prompts`: those whose every user token is
    right. `key`: entries of the masks that are right, of all entries that could be compared.
    `stopped`: the attack ran out of time, so all of these are lower bounds.
    """

    top_1: Mapping[str, Share]
    top_10: Mapping[str, Share]
    prompts: Share
    key: Share
    seconds: float
    reason: str
    stopped: bool = False


def measure(
    findings: Findings,
    dialogues: Sequence[Dialogue],
    key: Mapping[str, NDArray[Any]],
    seconds: float,
) -> Measurement:
    """Compare findings with what was said, and with the key as far as it is known.

    A reply's tokens are looked up in the findings about answers. An attack without such findings is
    measured by the rows that send the reply; its last token, which no row sends, does not count
    then. Raises ValueError for findings of another shape than the traffic.
    """
    rows = _hits(findings.tokens, [each.sent for each in dialogues])
    kinds = [each.kinds for each in dialogues]
    hits = [
        np.concatenate([hit[kind == k] for hit, kind in zip(rows, kinds, strict=True)])
        for k in range(len(KINDS))
    ]
    if findings.replies:
        hits[REPLY] = np.concatenate(_hits(findings.replies, [each.reply for each in dialogues]))
    whole = [
        bool(hit[kind == USER, 0].all())
        for hit, kind in zip(rows, kinds, strict=True)
        if (kind == USER).any()
    ]
    return Measurement(
        {name: _share(hits[k][:, 0]) for k, name in enumerate(KINDS)},
        {name: _share(hits[k][:, 1]) for k, name in enumerate(KINDS)},
        Share(sum(whole), len(whole)),
        _key_share(findings.key, key),
        seconds,
        findings.reason,
        findings.stopped,
    )


def _hits(candidates: Sequence[Tokens], truth: Sequence[Tokens]) -> list[NDArray[np.bool_]]:
    """For every token whether the first, and whether any candidate is right: bool [tokens, 2]."""
    if not candidates:
        return [np.zeros((len(tokens), 2), bool) for tokens in truth]
    found = []
    for named, tokens in zip(candidates, truth, strict=True):
        if named.ndim != 2 or len(named) != len(tokens):
            raise ValueError(f"candidates {named.shape} for {len(tokens)} tokens")
        right = named == tokens[:, None]
        found.append(np.stack([right[:, :1].any(axis=1), right.any(axis=1)], axis=1))
    return found


def _share(hits: NDArray[np.bool_]) -> Share:
    return Share(int(hits.sum()), len(hits))


def _key_share(found: Mapping[str, NDArray[Any]], true: Mapping[str, NDArray[Any]]) -> Share:
    """Entries right of all true ones: elements of permutations, columns of a rotation."""
    right = (_right(found[label], expected) for label, expected in true.items() if label in found)
    return Share(sum(right), sum(expected.shape[-1] for expected in true.values()))


def _right(found: NDArray[Any], expected: NDArray[Any]) -> int:
    if found.shape != expected.shape:
        return 0
    if expected.ndim == 1:
        return int((found == expected).sum())
    cosines = (found * expected).sum(axis=0)
    cosines /= np.linalg.norm(found, axis=0) * np.linalg.norm(expected, axis=0) + 1e-30
    return int((cosines > SAME_DIRECTION).sum())


@dataclass(frozen=True)
class Spread:
    """The median of some runs, and their range; of shares 0..1, or of seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """The spread of the values that are not None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(float(np.median(known)), min(known), max(known))
