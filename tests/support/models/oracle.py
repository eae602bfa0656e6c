"""The oracle: unmodified mlx-lm on the original checkpoint, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from numpy.typing import NDArray

# of the logits' scale, their largest magnitude
TOLERANCE = 1e-4


class Oracle:
    """mlx-lm's own model of a checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        mx.set_default_device(mx.cpu)
        self.model, _ = load_model(checkpoint)
        self.model.update(tree_map(lambda array: array.astype(mx.float32), self.model.parameters()))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after every token, [len(token_ids), vocab_size]."""
        return np.array(self.model(mx.array([list(token_ids)]))[0])

    def stepwise_logits(self, pieces: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The logits of each piece when the pieces are fed one after the other into one cache."""
        cache = make_prompt_cache(self.model)
        return [np.array(self.model(mx.array([list(piece)]), cache=cache)[0]) for piece in pieces]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The tokens that mlx-lm's own generation loop chooses."""
        steps = generate_step(mx.array(list(prompt)), self.model, max_tokens=count)
        return [int(token) for token, _ in steps]


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference over the largest magnitude expected.

    Raises AssertionError where either side is not finite or the shapes differ, so that NaN never
    passes for agreement.
    """
    assert found.shape == expected.shape
    assert np.isfinite(found).all(), "our logits are not finite"
    assert np.isfinite(expected).all(), "the oracle's logits are not finite"
    scale = float(np.abs(expected).max())
    assert scale > 0.1, "the oracle's logits are all but zero: nothing is compared"
    return float(np.abs(found - expected).max()) / scale


def assert_equal_logits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Fail unless the logits agree to TOLERANCE of their scale."""
    assert relative_error(found, expected) < TOLERANCE
