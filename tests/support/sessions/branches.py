"""Sessions that share prefixes; what each answers is compared with the oracle on all its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stip_client import Client, Session
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.servers.watched import Watched
from tests.support.sessions.client_session import drop_stream

VOCAB_SIZE = 151  # the tiny checkpoint's


def tokens(count: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCAB_SIZE, count)]


PREFIX = tokens(300)


@dataclass
class Branch:
    """A session and the tokens that it holds; what it answers is compared with the oracle."""

    session: Session
    oracle: Oracle
    tokens: list[int]

    def add(self, *more: int) -> None:
        found = self.session.forward(more)
        self.tokens += more
        assert_equal_logits(found, self.oracle.logits(self.tokens)[-len(more) :])

    def roll_back(self, position: int) -> None:
        self.session.rollback(position)
        del self.tokens[position:]

    def fork(self, length: int | None = None) -> Branch:
        fork = self.session.fork(length)
        return Branch(fork, self.oracle, self.tokens[:length])

    def break_off(self) -> None:
        drop_stream(self.session)

    def close(self) -> None:
        self.session.close()


def branch(client: Client, oracle: Oracle, prefix: Sequence[int] = PREFIX) -> Branch:
    """A session that holds a prefix."""
    session = client.session()
    session.forward(prefix, rows="none")
    return Branch(session, oracle, list(prefix))


def kv_bytes_used(server: Watched) -> float:
    """Bytes of keys and values that are allocated."""
    return server.metric("stip_kv_used_bytes")
