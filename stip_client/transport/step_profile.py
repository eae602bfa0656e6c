"""The time and the bytes of a step."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class StepProfile:
    """Seconds and bytes of one forward call, which may have been sent as several steps.

    client: sampling, embedding, masking and encoding before the first step was sent. queue and
    compute: as the server reports them. wire: the remaining time of the round trip. bytes_up and
    bytes_down: of the gRPC messages, without HTTP/2, TLS and TCP. drafted: how many rows were
    guesses. round_trips: above 1 if a token needed several calls; the steps of one call count as 1.
    head: making the logits, if the client makes them. It is also part of the next call's `client`.
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
        """The sums, for calls that brought one token together."""
        return StepProfile(*map(sum, zip(astuple(self), astuple(other), strict=True)))
