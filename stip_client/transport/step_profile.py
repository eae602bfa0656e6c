"""Where the time of a step went, and what it sent and received."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepProfile:
    """Seconds and bytes of one forward call, which may have been sent as several chunks.

    client: sampling, embedding, masking and encoding before it was sent. queue and compute: as the
    server reports them. wire: the rest of the round trip. bytes_up and bytes_down are those of the
    gRPC messages; what HTTP/2, TLS and TCP add is not counted. `drafted` of the rows were guesses.
    round_trips is more than 1 where a token took several calls; the chunks of one count as 1.
    head: making logits of the answer, where the client does; it passes before the next step is
    sent, and is part of that one's `client`.
    """

    rows: int
    client: float
    wire: float
    queue: float
    compute: float
    bytes_up: int = 0
    bytes_down: int = 0
    drafted: int = 0
    round_trips: int = 1
    head: float = 0.0

    def __add__(self, other: StepProfile) -> StepProfile:
        """The sums: of steps that brought a token only together."""
        return StepProfile(
            self.rows + other.rows,
            self.client + other.client,
            self.wire + other.wire,
            self.queue + other.queue,
            self.compute + other.compute,
            self.bytes_up + other.bytes_up,
            self.bytes_down + other.bytes_down,
            self.drafted + other.drafted,
            self.round_trips + other.round_trips,
            self.head + other.head,
        )
