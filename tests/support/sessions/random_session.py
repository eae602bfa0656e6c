"""One session in a random life: opened, extended, rolled back, forked, dropped, resumed, closed.

What it sends depends on its seed and on the answers, never on time, so that a seed that fails does
so again. When its steps meet those of other sessions is left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random
from time import sleep

import grpc

from tests.support.sessions.ledger import Greedy
from tests.support.wire.wire_session import ALL, LAST, NONE, House, WireSession

LONGEST_PROMPT = 100
LENGTHS = (150, 400)
SHORTEST_FORK = 50
CUTS = ("break off", "disconnect", "half-close", "take over")


class RandomSession:
    """Lives as long as it has something to do. Some of what it does leaves a fork behind."""

    def __init__(self, house: House, seed: str, *, actions: int, forks: int) -> None:
        self._house = house
        self._seed = seed
        self._random = Random(seed)
        self._actions = actions
        self._forks = forks
        self._session = WireSession(house)

    def run(self) -> None:
        """Live from opening to closing."""
        self._pause(0.2)
        self._session.open(self._random.randint(*LENGTHS))
        self._prompt()
        self._live()

    def _live(self) -> None:
        for _ in range(self._actions):
            act = self._random.choices(
                (self._decode, self._prompt, self._draft, self._roll_back, self._fork, self._drop),
                weights=(6, 3, 2, 3, 4, 4),
            )[0]
            act()
            self._pause(0.01)
        self._decode()
        self._session.close()

    # -- what it does ----------------------------------------------------------------------

    def _prompt(self) -> None:
        tokens = self._fresh(self._random.randint(17, LONGEST_PROMPT))
        self._send_in_pieces(len(self._session.tokens), tokens)
        self._session.receive_all()

    def _draft(self) -> None:
        tokens = self._fresh(self._random.randint(2, 16))
        self._session.step(len(self._session.tokens), tokens, ALL)

    def _decode(self) -> None:
        """Choose the largest logit, some times over."""
        session, count = self._session, self._random.randint(2, 10)
        self._make_room(count)
        if not session.tokens:
            self._draft()
        if session.choice is None:  # asks again for the last token's logits
            session.step(len(session.tokens) - 1, session.tokens[-1:], LAST)
        before, chosen = tuple(session.tokens), []
        for _ in range(count):
            assert session.choice is not None
            chosen.append(session.choice)
            session.step(len(session.tokens), [session.choice], LAST)
        self._house.ledger.greedy.append(Greedy(before, chosen))

    def _roll_back(self) -> None:
        self._session.truncate(self._random.randint(0, len(self._session.tokens)))

    def _fork(self) -> None:
        """Let a session on some of the tokens live beside this one, at times amid its steps."""
        session, under_way = self._session, self._random.random() < 0.5
        tokens = self._fresh(LONGEST_PROMPT) if under_way else []
        if not self._forks or not session.tokens:
            return
        self._forks -= 1
        length = self._random.randint(1, len(session.tokens))
        if under_way:
            self._send_in_pieces(len(session.tokens), tokens)
        elif session.held == len(session.tokens):
            length = self._random.choice((0, length))
        fork = RandomSession(
            self._house,
            f"{self._seed}/{self._forks}",
            actions=self._actions // 2,
            forks=self._forks // 2,
        )
        least = max(length or session.held, SHORTEST_FORK)
        max_length = self._random.randint(least, LENGTHS[1])
        fork._session.open_as_fork(session, length, max_length)
        self._house.start(fork._live)
        session.receive_all()
        self._did("fork under way" if under_way else "fork")

    def _drop(self) -> None:
        """Lose the stream, at times with steps under way, and resume the session."""
        session = self._session
        if self._random.random() < 0.75:
            tokens = self._fresh(self._random.randint(1, LONGEST_PROMPT))
            backwards, end = self._random.random() < 0.3, len(session.tokens)
            self._send_in_pieces(self._random.randint(0, end) if backwards else end, tokens)
            for _ in range(self._random.randint(0, len(session.unanswered) - 1)):
                session.receive()
            self._did("drop under way")
        self._pause(0.02)
        lost, disconnect = session.stream, session.disconnect
        cut = self._random.choice(CUTS)
        if cut == "break off":
            lost.break_off()
        elif cut == "disconnect":
            disconnect()
        elif cut == "half-close":
            lost.half_close_only()
            session.receive_all()
        self._pause(0.02)
        session.resume()
        if cut == "take over":
            assert lost.refusal().code is grpc.StatusCode.ABORTED
        lost.break_off()
        disconnect()
        self._did(cut)
        self._go_on()

    def _go_on(self) -> None:
        """Continue a resumed session where the server stands, or from a random position."""
        session, known = self._session, len(self._session.tokens)
        lost = [token for each in session.unanswered for token in each.tokens]
        first = session.unanswered[0].position if session.unanswered else known
        session.unanswered.clear()
        assert first <= session.held <= max(session.held_before, first + len(lost))
        rolled_back = first < session.held_before  # rows behind `first` are old ones or new ones
        if rolled_back or self._random.random() < 0.5:
            session.truncate(self._random.randint(0, first))
            self._did("resumed elsewhere")
            return
        self._did("resumed where it stood")
        session.tokens += lost[: session.held - known]
        session.choice = None
        if rest := lost[session.held - known :]:
            session.step(session.held, rest, ALL)

    # -- how it does it --------------------------------------------------------------------

    def _send_in_pieces(self, position: int, tokens: Sequence[int]) -> None:
        """Send the tokens in one to six steps, without waiting for answers."""
        pieces = min(len(tokens), self._random.randint(1, 6))
        cuts = sorted(self._random.sample(range(1, len(tokens)), pieces - 1))
        for start, stop in pairwise([0, *cuts, len(tokens)]):
            rows = self._random.choice((LAST, ALL, NONE))
            self._session.send(position + start, tokens[start:stop], rows)

    def _fresh(self, count: int) -> list[int]:
        """Random tokens, at most as many as the session may hold; there is room for them then."""
        count = min(count, self._session.max_length)
        self._make_room(count)
        vocab_size = self._house.bundle.manifest.model.vocab_size
        return [self._random.randrange(vocab_size) for _ in range(count)]

    def _make_room(self, count: int) -> None:
        most = self._session.max_length - count
        if len(self._session.tokens) > most:
            self._session.truncate(self._random.randint(0, most))

    def _pause(self, longest: float) -> None:
        sleep(self._random.random() * longest)

    def _did(self, what: str) -> None:
        self._house.ledger.did(what)
