"""Norms of masked rows and the inner products between them, which every orthogonal mask keeps.

Few tokens have a row's norm. The inner products between a few rows single out one choice. Inner
products with these rows name all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip.v1.manifest_pb2 import Scheme
from stip_keys.audit.attack import Attack, Attacker, Findings, View
from stip_keys.audit.solvers.distinct_rows import DistinctRows
from stip_keys.audit.solvers.inner_products import tokens_by_products
from stip_keys.audit.solvers.mask_from_rows import permutation_between, rotation_between


def run(view: View) -> Findings:
    """Every row's token by its inner products, or only by its norm if no choice agrees with them.

    Also the mask: a permutation from all rows, a rotation from at least hidden_size rows.
    """
    assert view.public is not None
    embedding = view.public.embedding
    distinct = DistinctRows(view.conversations)
    tokens, agree = tokens_by_products(distinct.rows, embedding)
    if not agree:
        return Findings(
            distinct.spread(tokens),
            reason="no choice of tokens agrees with the inner products: only norms were compared",
        )
    return Findings(
        distinct.spread(tokens), key=_mask(view.scheme, embedding[tokens[:, 0]], distinct.rows)
    )


def _mask(
    scheme: Scheme, plain: NDArray[np.float16], sent: NDArray[np.float16]
) -> dict[str, NDArray[Any]]:
    """The client's mask by its label, where the rows determine it."""
    if scheme == Scheme.SCHEME_ROTATION:
        rotation = rotation_between(plain, sent)
        return {} if rotation is None else {"rotation": rotation}
    p_0 = permutation_between(plain, sent)
    return {} if p_0 is None else {"residual/0": p_0}


ATTACK = Attack(
    "row norms and inner products",
    Attacker.WIRE,
    "orthogonal Procrustes: rows that are known up to a rotation are known by their Gram matrix "
    "(Schönemann, 1966); here its entries are matched first",
    run,
)
