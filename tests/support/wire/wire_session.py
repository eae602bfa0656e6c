"""A session as its client knows it: its tokens, its steps without answers, and what it was told.

Every answer is checked for its length and shape, and written down to be compared later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stip.v1.inference_pb2 import ForkPoint, InferRequest, LogitsRequest, LogitsRows
from stip.v1.tensor_pb2 import DataType
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.sessions.ledger import Answer, Ledger
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
)

DEADLINE = 300.0
LAST, ALL, NONE = (
    LogitsRows.LOGITS_ROWS_LAST,
    LogitsRows.LOGITS_ROWS_ALL,
    LogitsRows.LOGITS_ROWS_NONE,
)


@dataclass(frozen=True)
class House:
    """Where sessions live: a server's address, the client's bundle, what writes their answers down,
    and what runs a fork beside the session that it comes from."""

    address: str
    bundle: ClientBundle
    ledger: Ledger
    start: Callable[[Callable[[], None]], None]


class Unanswered(NamedTuple):
    """A step that was sent."""

    position: int
    tokens: list[int]
    rows: LogitsRows


class WireSession:
    """`tokens` are those that the server must hold, less what the next step will roll back."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.tokens: list[int] = []
        # tokens that the server held when it last said so, and when it had before
        self.held = self.held_before = 0
        self.unanswered: deque[Unanswered] = deque()
        # the largest logit after the last token, where it is known
        self.choice: int | None = None
        self.max_length = 0
        self.id = b""

    def open(self, max_length: int) -> None:
        """Begin anew."""
        self._begin(open_request(self.house.bundle.manifest, max_length=max_length))
        assert self.held == 0

    def open_as_fork(self, source: WireSession, length: int, max_length: int) -> None:
        """Begin with the first tokens of another session; length 0 is all that it holds."""
        point = ForkPoint(session_id=source.id, length=length)
        manifest = self.house.bundle.manifest
        self._begin(open_request(manifest, max_length=max_length, fork=point))
        self.tokens = source.tokens[: length or source.held]
        assert self.held == len(self.tokens)

    def resume(self) -> None:
        """Go on with a stream and a connection of its own."""
        self._begin(open_request(self.house.bundle.manifest, resume_session_id=self.id))

    def _begin(self, request: InferRequest) -> None:
        context = connection(self.house.address)
        self.stream = WireStream(context.__enter__(), deadline=DEADLINE)
        self.disconnect = lambda: context.__exit__(None, None, None)
        opened = self.stream.send(request).opened()
        self.id, self.max_length = opened.session_id, opened.max_length
        self.held_before, self.held = self.held, opened.length

    def send(self, position: int, tokens: Sequence[int], rows: LogitsRows) -> None:
        """Send a step."""
        hidden_states = self.house.bundle.masked_embeddings(tokens).astype(np.float32)
        logits = LogitsRequest(rows=rows, dtype=DataType.DATA_TYPE_FLOAT32)
        self.stream.send(step_request(position, hidden_states, logits=logits))
        self.unanswered.append(Unanswered(position, list(tokens), rows))

    def receive(self) -> None:
        """Take the answer to the oldest step that has none."""
        position, tokens, rows = self.unanswered.popleft()
        result = self.stream.result()
        if position < max(self.held, len(self.tokens)):
            self.house.ledger.did("rollback")
        self.tokens[position:] = tokens
        self.held = result.length
        assert self.held == len(self.tokens)
        count = {LAST: 1, ALL: len(tokens), NONE: 0}[rows]
        assert result.HasField("logits") == bool(count)
        self.choice = None
        if count:
            logits = logits_of(result)
            assert logits.shape == (count, self.house.bundle.manifest.model.vocab_size)
            self.house.ledger.answers.append(Answer(tuple(self.tokens), logits))
            self.choice = int(logits[-1].argmax())

    def receive_all(self) -> None:
        """Take the answers to all steps that were sent."""
        while self.unanswered:
            self.receive()

    def step(self, position: int, tokens: Sequence[int], rows: LogitsRows) -> None:
        """Send a step and take its answer."""
        self.send(position, tokens, rows)
        self.receive()

    def truncate(self, position: int) -> None:
        """Forget the tokens from `position` on; the next step tells the server."""
        if position < len(self.tokens):
            del self.tokens[position:]
            self.choice = None

    def close(self) -> None:
        """End the session."""
        self.stream.close()
        self.disconnect()
