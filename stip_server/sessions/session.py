"""One session: its owner, its lengths and its steps under way. Its cache lives in the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stip_server.sessions.back_pressure.answer_memory import UnreadAnswers

ID_BYTES = 16


class AttachedStream(Protocol):
    """The stream that a session is attached to."""

    @property
    def waits_for_server(self) -> bool:
        """Whether a step of it waits for the server, and not for its own client to read."""

    def taken_over(self, session: Session) -> None:
        """Another stream has resumed the session."""

    def evicted(self, session: Session) -> None:
        """The session was closed: it was idle, and its memory was needed."""


@dataclass(eq=False)
class Session:
    """A session belongs to the identity that opened it. Its lengths are in tokens.

    `length` counts computed tokens; `sent_length` also those of the steps under way. `kv_bytes` are
    reserved for max_length tokens. `known` is whether the client may know the id. `under_way` has
    the position of each step that the engine has, by the step's number.
    """

    id: bytes
    identity: str
    max_length: int
    kv_bytes: int
    last_used: float
    stream: AttachedStream | None = None
    length: int = 0
    sent_length: int = 0
    known: bool = False
    unread: UnreadAnswers = field(default_factory=UnreadAnswers)
    under_way: dict[int, int] = field(default_factory=dict)
    _steps_begun: int = 0
    _when_done: list[tuple[set[int], Callable[[], None]]] = field(default_factory=list)

    def step_begun(self, position: int) -> int:
        """Record that the engine gets a step at a position; return the step's number."""
        self._steps_begun += 1
        self.under_way[self._steps_begun] = position
        return self._steps_begun

    def step_done(self, number: int) -> None:
        """Record that a step was computed, failed or was cancelled. Steps may end out of order."""
        del self.under_way[number]
        for steps, _ in self._when_done:
            steps.discard(number)
        due = [call for steps, call in self._when_done if not steps]
        self._when_done = [each for each in self._when_done if each[0]]
        for call in due:
            call()

    def when_done(self, call: Callable[[], None]) -> None:
        """Call once, when the steps under way now are done. Later steps do not count."""
        if self.under_way:
            self._when_done.append((set(self.under_way), call))
        else:
            call()
