"""The served head as a code book, with no outside knowledge at all.

A tied head is the embedding table under the residual stream's last mask. With permutations, the
public taus take a sent row to that mask, where it equals a row of the head. With a rotation, sent
rows have that mask already and differ by the final norm's weight, so the right row has the smallest
angle. In vocabulary order the index of the head's row is the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, Tokens, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.nearest import nearest

HEAD = "lm_head.weight"


def run(view: View) -> Findings:
    """For every row sent, the rows of the head that are nearest."""
    assert view.bundle is not None and view.config is not None
    if reason := fails(view.scheme, view.head):
        return Findings(reason=reason)
    distinct = DistinctRows(view.conversations)
    found = head_rows(distinct.rows, view.bundle, view.config.num_hidden_layers)
    reason = "" if view.config.tie_word_embeddings else "the head is not tied to the embedding"
    return Findings(distinct.spread(found), reason=reason)


def head_rows(sent: NDArray[np.float16], bundle: Mapping[str, NDArray[Any]], layers: int) -> Tokens:
    """The rows of the served head that are nearest in angle to rows sent: int64 [rows, WIDTH]."""
    carried = sent.astype(np.float32)
    for layer in range(layers):
        tau = bundle.get(f"model.layers.{layer}.tau")
        if tau is not None:
            carried = carried[:, tau]
    return nearest(_directions(carried), bundle[HEAD], _directions)[0]


def _directions(rows: NDArray[Any]) -> NDArray[np.float32]:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    scaled: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled


def fails(_: Scheme, head: Head) -> str:
    """Why the head's rows do not name tokens; "" if they do."""
    if head == Head.HEAD_CLIENT:
        return "the server holds no head"
    if head == Head.HEAD_SEALED:
        return "the head's rows stand in a secret order: a row gets its exact pseudonym"
    return ""


ATTACK = Attack(
    "code book",
    Attacker.HOST_WITHOUT_MODEL,
    "a tied head is a masked copy of the embedding (Press & Wolf, 2017, on tying)",
    run,
    fails,
)
