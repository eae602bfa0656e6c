"""Where the time of a step went."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepProfile:
    """Seconds of one forward call, which may have been sent as several chunks.

    client: sampling, embedding, masking and encoding before it was sent. queue and compute: as the
    server reports them. wire: the rest of the round trip.
    """

    rows: int
    client: float
    wire: float
    queue: float
    compute: float
