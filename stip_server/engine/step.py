"""One step on its way from the service through the scheduler to the engine, and back.

A step is what a client sends; a chunk is the part of it that one iteration computes. Plain data:
NumPy in, bytes out. Knows neither Protobuf nor devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from numpy.typing import NDArray

from stip_server.errors import ServiceError


class WantedRows(Enum):
    """The rows of a step that logits are wanted for."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class LogitsForm(NamedTuple):
    """Which logits a step asks for: whole rows (top_k 0) or the k largest of each row."""

    rows: WantedRows
    top_k: int
    half_precision: bool  # float16 rather than float32

    def nbytes(self, num_rows: int, width: int) -> int:
        """Return the bytes of logits of a step; a whole row has `width` of them."""
        count = {WantedRows.NONE: 0, WantedRows.LAST: 1, WantedRows.ALL: num_rows}[self.rows]
        itemsize = 2 if self.half_precision else 4
        if self.top_k == 0:
            return count * width * itemsize
        # each logit with its int32 index, and a float32 log-sum-exp a row
        return count * ((itemsize + 4) * self.top_k + 4)


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


def join_logits(parts: Sequence[StepLogits]) -> StepLogits | None:
    """Return the logits of consecutive rows as one, None for no parts."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return StepLogits(
        sum(part.rows for part in parts),
        parts[0].width,
        b"".join(part.values for part in parts),
        b"".join(part.indices for part in parts),
        b"".join(part.log_sum_exp for part in parts),
    )


@dataclass(frozen=True)
class StepOutcome:
    """The result of a step: logits if it asked for them, or the error that it failed with.

    `queued` and `computed` are seconds. `length` is the number of tokens that the session holds
    now, or None for a step that never began, which leaves the session as it was.
    """

    queued: float = 0.0
    computed: float = 0.0
    length: int | None = None
    logits: StepLogits | None = None
    error: ServiceError | None = None


@dataclass(eq=False)
class Step:
    """Tokens to add to a session from `position` on: hidden_states [rows, hidden_size].

    The fields from `submitted` on are the scheduler's and the engine's own.
    """

    session_id: bytes
    position: int
    hidden_states: NDArray[Any]
    form: LogitsForm
    deliver: Callable[[StepOutcome], None]
    submitted: float = 0.0
    started: float | None = None
    computed: float = 0.0  # seconds
    parts: list[StepLogits] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return len(self.hidden_states)


@dataclass(frozen=True)
class Chunk:
    """The rows [start, stop) of a step: what one iteration computes of it."""

    step: Step
    start: int
    stop: int

    @property
    def position(self) -> int:
        """The number of the session's tokens that precede the chunk."""
        return self.step.position + self.start

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def is_last(self) -> bool:
        return self.stop == self.step.num_rows

    @property
    def wanted_rows(self) -> int:
        """The number of rows that logits are wanted for: the last ones of the chunk."""
        rows = self.step.form.rows
        if rows is WantedRows.ALL:
            return self.num_rows
        return 1 if rows is WantedRows.LAST and self.is_last else 0
