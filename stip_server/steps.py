"""One step as it travels from the service through the scheduler to the engine and back.

Plain data: NumPy in, bytes out. Knows neither Protobuf nor MLX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from numpy.typing import NDArray


class Rows(Enum):
    """For which rows of a step logits are wanted."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True)
class StepLogits:
    """Logits as little-endian bytes: values [rows, width], where width is vocab_size or top_k.

    indices (int32) and log_sum_exp (float32, [rows]) are empty unless top_k was asked for.
    """

    rows: int
    width: int
    values: bytes
    indices: bytes = b""
    log_sum_exp: bytes = b""


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step: logits where it asked for them, or the error that failed it.

    `started` is the clock's time at which the engine took the step up, `seconds` its computation.
    """

    started: float
    seconds: float
    logits: StepLogits | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Step:
    """Tokens to add to a session from `position` on: hidden_states [rows, hidden_size]."""

    session_id: bytes
    position: int
    hidden_states: NDArray[Any]
    rows: Rows
    half_precision: bool  # float16 logits rather than float32
    top_k: int  # 0: the whole vocabulary
    submitted: float
    deliver: Callable[[StepOutcome], None]

    @property
    def num_rows(self) -> int:
        return len(self.hidden_states)

    @property
    def wanted_rows(self) -> int:
        """Rows for which logits are wanted; they are the last ones of the step."""
        return {Rows.NONE: 0, Rows.LAST: 1, Rows.ALL: self.num_rows}[self.rows]
