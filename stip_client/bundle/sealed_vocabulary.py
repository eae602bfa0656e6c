"""Restores the vocabulary order of sealed logits (SPEC.md, section 4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stip_client.transport.wire_tensors import LogitsArrays
from stip_keys.masks.derivation import Indices
from stip_keys.masks.permutation import inverse


class SealedVocabulary:
    """The order v of a sealed vocabulary: `sealed[k] = logits[v[k]]`."""

    def __init__(self, order: Indices) -> None:
        """`order`: v, [vocab_size]."""
        self._order = order.astype(np.int32)
        self._places = inverse(order)

    def open(self, logits: LogitsArrays) -> LogitsArrays:
        """Sealed logits in vocabulary order; for the largest logits, their vocabulary indices."""
        if logits.indices is None:
            return LogitsArrays(np.take(logits.values, self._places, axis=-1))
        return replace(logits, indices=np.take(self._order, logits.indices))
