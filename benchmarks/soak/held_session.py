"""A session in use: what a client asks of it in the right way, and what it must answer.

The session's tokens are always the beginning of a text whose answer is known, so that each answer
can be compared, whatever came before it: rollbacks, forks, broken streams, refusals.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from benchmarks.soak.tally import Tally
from benchmarks.soak.texts import Text, chosen
from stip.v1.inference_pb2 import LogitsRequest, LogitsRows, SessionOpened
from stip.v1.tensor_pb2 import DataType
from tests.support.wire.requests import WireStream, step_request

LAST, ALL, NONE = (
    LogitsRows.LOGITS_ROWS_LAST,
    LogitsRows.LOGITS_ROWS_ALL,
    LogitsRows.LOGITS_ROWS_NONE,
)


@dataclass
class Held:
    """A session, the stream that holds it, its text and how many of the text's tokens it holds."""

    stream: WireStream
    opened: SessionOpened
    text: Text
    tally: Tally
    random: Random
    length: int = 0

    @property
    def time_to_live(self) -> float:
        """Seconds that it outlives a broken stream."""
        return self.opened.limits.session_ttl_millis / 1000

    @property
    def complete(self) -> bool:
        """Whether it holds all of its text."""
        return self.length == len(self.text.tokens)

    def prefill(self) -> None:
        """Send what is missing of the prompt, in one to three steps."""
        start, end = self.length, self.text.prompt_length
        if start < end:
            inner = range(start + 1, end)
            cuts = self.random.sample(inner, min(len(inner), self.random.randint(0, 2)))
            self.step(start, *sorted(cuts), end)
            self.tally.count("prefills")

    def decode(self) -> None:
        """Send the text's next tokens, one a step and up to four at once. A client that waits for
        each token cannot do that, but would send the same."""
        for _ in range(self.random.randint(1, 6)):
            stop = min(self.length + self.random.randint(1, 4), len(self.text.tokens))
            if stop > self.length:
                self.step(*range(self.length, stop + 1))

    def roll_back(self) -> None:
        """Go back into the answer, seldom into the prompt, and send one or more tokens again."""
        last = self.length - 1
        earliest = min(self.text.prompt_length, last) if self.random.random() < 0.8 else 0
        position = self.random.randint(earliest, last)
        self.step(position, self.random.randint(position + 1, self.length))
        self.tally.count("rollbacks")

    def send_one(self) -> None:
        """Send the next token and do not wait for the answer."""
        rows = self.text.rows[self.length : self.length + 1]
        self.stream.send(step_request(self.length, rows))

    def step(self, *cuts: int) -> None:
        """Send tokens in steps from each cut to the next, then read and compare the answers."""
        steps = list(pairwise(cuts))
        for start, stop in steps:
            rows = self.text.rows[start:stop]
            self.stream.send(step_request(start, rows, logits=self._logits()))
        for _, stop in steps:
            result = self.stream.result()
            if result.length != stop:
                self.tally.fail(f"a step to {stop} tokens gave {result.length}")
            self.length = stop
            expected = self.text.next_token(stop)
            if expected is not None and result.HasField("logits"):
                self.tally.compare(f"after {stop} tokens", chosen(result), expected)
        self.tally.count("steps", len(steps))

    def leave(self) -> None:
        """Close the session, or leave it to its time to live in one of two ways."""
        way = self.random.choices(("closed", "half-closed", "abandoned"), weights=(8, 1, 1))[0]
        self.tally.count(way)
        if way == "closed":
            self.stream.close()
        elif way == "half-closed":
            self.stream.half_close()
        else:
            self.stream.break_off()

    def _logits(self) -> LogitsRequest:
        rows = self.random.choices((LAST, ALL, NONE), weights=(16, 1, 3))[0]
        # whole rows of many tokens would be megabytes
        top_k = self.random.choice((0, 1, 1, 5)) if rows == LAST else 1
        return LogitsRequest(rows=rows, dtype=DataType.DATA_TYPE_FLOAT32, top_k=top_k)
