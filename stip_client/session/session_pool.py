"""The sessions that a client keeps, so that a prompt which continues one sends only what is new."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from stip_client.session.recovering_session import RecoveringSession

# A session is continued if at least this share of its tokens begins the new prompt as well. If the
# share is smaller, the session is another conversation, which may go on: it is forked.
CONTINUED = 0.5
# Fewer tokens than this are sent again rather than forked.
WORTH_FORKING = 16


class SharedPrefix(NamedTuple):
    """The first `length` tokens, which a kept session has in common with a prompt.

    If it `continues`, the session is claimed for the prompt; else the session may be forked.
    """

    session: RecoveringSession
    length: int
    continues: bool


class SessionPool:
    """At most `maximum` sessions. Those that no reply uses may be continued or closed.

    Threads may share it.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._busy: set[RecoveringSession] = set()
        self._idle: dict[RecoveringSession, None] = {}  # the least recently used one first
        self._lock = Lock()

    @property
    def has_idle(self) -> bool:
        """Whether a session can be evicted."""
        return bool(self._idle)

    def claim(self, prompt: Sequence[int]) -> SharedPrefix | None:
        """The session that has most in common with a prompt, to continue or to fork.

        The last token of the prompt does not count: it is sent in any case.
        """
        best: SharedPrefix | None = None
        with self._lock:
            for session in (*self._idle, *self._busy):
                tokens = tuple(session.core.tokens)  # another thread may add some
                length = _common_length(tokens, prompt[:-1])
                continues = session in self._idle and length >= CONTINUED * len(tokens)
                if length < (1 if continues else WORTH_FORKING):
                    continue
                if best is None or (length, continues) > best[1:]:
                    best = SharedPrefix(session, length, continues)
            if best is not None and best.continues:
                del self._idle[best.session]
                self._busy.add(best.session)
        return best

    def add(self, session: RecoveringSession) -> bool:
        """Keep a session that a reply uses; false where there is no room."""
        with self._lock:
            if len(self._busy) + len(self._idle) >= self._maximum:
                return False
            self._busy.add(session)
            return True

    def release(self, session: RecoveringSession) -> bool:
        """The reply has ended, and the session may be continued; false if it is not kept."""
        with self._lock:
            if session not in self._busy:
                return False
            self._busy.remove(session)
            self._idle[session] = None
            return True

    def discard(self, session: RecoveringSession) -> None:
        """Stop keeping a session: it is closed, or will be."""
        with self._lock:
            self._busy.discard(session)
            self._idle.pop(session, None)

    def evict(self) -> RecoveringSession | None:
        """Stop keeping the idle session that was used least recently; the caller closes it."""
        with self._lock:
            session = next(iter(self._idle), None)
            if session is not None:
                del self._idle[session]
            return session


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    return next((length for length, (one, other) in pairs if one != other), shorter)
