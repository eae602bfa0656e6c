"""Times, bytes and round trips of a reply.

The prompt's cost is the time to the first token. All figures per token are of the later tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

from stip_client.session.generation import Piece
from stip_client.transport.step_profile import StepProfile


class ReplyTiming:
    """The timing of one reply. The clock starts when this object is made.

    `prompt_tokens`: the tokens of the conversation before the reply.
    `arrivals`: seconds until each token arrived. `steps`: the profiles of the steps that brought
    them; the first is the prompt's.
    """

    def __init__(self, prompt_tokens: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.started = perf_counter()
        self.arrivals: list[float] = []
        self.steps: list[StepProfile] = []

    def record(self, piece: Piece) -> None:
        """Record a piece; call this when it arrives."""
        self.arrivals.append(perf_counter() - self.started)
        if piece.profile is not None:
            self.steps.append(piece.profile)

    @property
    def tokens(self) -> int:
        return len(self.arrivals)

    @property
    def rows(self) -> int:
        """Tokens sent before the first token was generated."""
        return self.steps[0].rows if self.steps else 0

    @property
    def round_trips(self) -> int:
        """Round trips, including the prompt's."""
        return sum(step.round_trips for step in self.steps)

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return self.arrivals[0] if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive tokens."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


@dataclass(frozen=True)
class Rates:
    """Figures per token after a reply's first token; None if no reply had a second one."""

    tokens_per_second: float | None
    bytes_up: float | None
    bytes_down: float | None
    tokens_per_round_trip: float | None


def rates(replies: Iterable[ReplyTiming]) -> Rates:
    """Rates over all tokens of some replies.

    For replies generated at once, tokens_per_second is the rate of one session.
    """
    replies = [each for each in replies if each.tokens > 1]
    tokens = sum(each.tokens - 1 for each in replies)
    seconds = sum(each.arrivals[-1] - each.arrivals[0] for each in replies)
    steps = [step for each in replies for step in each.steps[1:]]
    if not tokens:
        return Rates(None, None, None, None)
    return Rates(
        tokens_per_second=tokens / max(seconds, 1e-9),
        bytes_up=sum(step.bytes_up for step in steps) / tokens,
        bytes_down=sum(step.bytes_down for step in steps) / tokens,
        tokens_per_round_trip=tokens / sum(step.round_trips for step in steps) if steps else None,
    )


def shown_bytes(count: float) -> str:
    """A number of bytes as text: "384 B", "1.2 KB"."""
    return f"{count:.0f} B" if count < 1000 else f"{count / 1000:.1f} KB"
