"""Signatures of weights: the host compares what it serves with the public checkpoint.

Moving and negating numbers does not change sums over their hashes, so every permutation is found
exactly. A rotation does not change norms, which give the equations to solve for it. The key then
decodes all traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Head, Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, PublicModel, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.logits import largest, largest_by_head
from stip_keys.audit.solvers.nearest import nearest
from stip_keys.audit.solvers.permuted_weights import recover_permutations
from stip_keys.audit.solvers.rotated_weights import recover_rotation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import inverse

Float32 = NDArray[np.float32]
Undo = Callable[[NDArray[np.float16]], Float32]


def run(view: View) -> Findings:
    """The key, and by it every token sent and answered."""
    assert view.public is not None and view.bundle is not None
    if view.scheme == Scheme.SCHEME_ROTATION:
        rotated = recover_rotation(view)
        if rotated is None:
            return Findings(reason="no rotation takes the model's weights to the bundle's")
        back = rotated.rotation.T

        def undo(rows: NDArray[np.float16]) -> Float32:
            return rows.astype(np.float32) @ back

        return _read(view, view.public, undo, undo, rotated.vocabulary, rotated.key)
    permutations = recover_permutations(view)
    if permutations is None:
        return Findings(reason="the bundle's weights are not the model's in another order")
    first, last = inverse(permutations.residual[0]), inverse(permutations.residual[-1])
    return _read(
        view,
        view.public,
        lambda rows: rows[:, first].astype(np.float32),
        lambda rows: rows[:, last].astype(np.float32),
        permutations.vocabulary,
        permutations.key,
    )


def _read(
    view: View,
    public: PublicModel,
    undo_sent: Undo,
    undo_answers: Undo,
    vocabulary: Indices | None,
    key: Mapping[str, NDArray[Any]],
) -> Findings:
    distinct = DistinctRows(view.conversations)
    tokens, _ = nearest(undo_sent(distinct.rows), public.embedding)
    if view.head == Head.HEAD_CLIENT:
        norm = public.tensors["model.norm.weight"]
        head = public.decoder.head()
        replies = [
            largest_by_head(undo_answers(each.answers) * norm, head) for each in view.conversations
        ]
    else:
        assert vocabulary is not None
        replies = [vocabulary[largest(each.answers)] for each in view.conversations]
    return Findings(distinct.spread(tokens), replies, key)


ATTACK = Attack(
    "weight signatures",
    Attacker.HOST,
    "permutation matching of public weights (Ainsworth et al., Git Re-Basin, 2023, on networks "
    "that only resemble each other); orthogonal Procrustes for rotations",
    run,
)
