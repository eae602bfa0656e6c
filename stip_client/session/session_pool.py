"""The sessions that a client keeps, so that a prompt which continues one sends only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Generic, TypeVar

from stip_client.session.base_session import BaseSession

S = TypeVar("S", bound=BaseSession)

# A session is continued where at least this share of its tokens begins the new prompt as well, and
# is forked where it is less: then it is another conversation, which may go on.
CONTINUED = 0.5
# Fewer tokens than this are sent again rather than forked.
WORTH_FORKING = 16


@dataclass(eq=False)
class _Kept(Generic[S]):
    session: S
    busy: bool
    used: int


@dataclass(frozen=True)
class Match(Generic[S]):
    """What a kept session has in common with a prompt: its first `length` tokens.

    Where it `continues` the session it has been taken for that; else the session may be forked.
    """

    session: S
    length: int
    continues: bool


class SessionPool(Generic[S]):
    """At most `maximum` sessions; those that no reply uses may be continued or closed.

    Threads may share it.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._kept: list[_Kept[S]] = []
        self._clock = count()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def claim(self, prompt: Sequence[int]) -> Match[S] | None:
        """The session to continue or to fork, the one that has most in common with a prompt.

        The last token of the prompt is not counted: it is sent in any case.
        """
        best: tuple[int, bool, _Kept[S]] | None = None
        with self._lock:
            for each in self._kept:
                tokens = each.session.tokens
                length = _common(tokens, prompt[:-1])
                continues = not each.busy and length >= CONTINUED * len(tokens)
                if length < (1 if continues else WORTH_FORKING):
                    continue
                if best is None or (length, continues) > best[:2]:
                    best = length, continues, each
            if best is None:
                return None
            length, continues, found = best
            found.busy = found.busy or continues
            return Match(found.session, length, continues)

    def add(self, session: S) -> bool:
        """Keep a session that a reply uses; false where there is no room."""
        with self._lock:
            if len(self._kept) >= self._maximum:
                return False
            self._kept.append(_Kept(session, True, next(self._clock)))
            return True

    def give_back(self, session: S) -> bool:
        """The reply has ended, and the session may be continued; false if it is not kept."""
        with self._lock:
            for each in self._kept:
                if each.session is session:
                    each.busy, each.used = False, next(self._clock)
                    return True
            return False

    def forget(self, session: S) -> None:
        """Keep a session no longer: it is closed, or will be."""
        with self._lock:
            self._kept = [each for each in self._kept if each.session is not session]

    @property
    def has_idle(self) -> bool:
        """Whether there is a session to let go of."""
        return any(not each.busy for each in tuple(self._kept))

    def let_go(self) -> S | None:
        """Keep the idle session that was used least recently no longer: it is to be closed."""
        with self._lock:
            idle = [each for each in self._kept if not each.busy]
            if not idle:
                return None
            oldest = min(idle, key=lambda each: each.used)
            self._kept.remove(oldest)
            return oldest.session


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that both begin with."""
    for length, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return length
    return min(len(first), len(second))
