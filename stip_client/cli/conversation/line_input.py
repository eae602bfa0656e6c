"""Lines that a user types at a prompt or pipes in."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from time import monotonic

PROMPT = "> "
# Seconds. A Ctrl-C this soon after a reply's end was meant for the reply.
REACTION = 0.5


class LineInput:
    """Standard input, line by line; with a prompt and line editing if it is a terminal."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.interactive = sys.stdin.isatty()
        # input() edits lines only if it also writes to the terminal
        self._edited = self.interactive and sys.stdout.isatty()
        self._typed = _line_editing() if self._edited else _unknown
        if isinstance(sys.stdin, io.TextIOWrapper):
            # invalid UTF-8 is refused where the line is used, not here
            sys.stdin.reconfigure(errors="surrogateescape")

    def read(self) -> str | None:
        """The next line without its newline; None at the end of the input.

        Ctrl-C clears what is typed. Raises KeyboardInterrupt if nothing is typed.
        """
        asked = self._clock()
        while True:
            try:
                return self._line()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._typed() and self._clock() - asked > REACTION:
                    raise
                print(file=sys.stderr, flush=True)

    def _line(self) -> str:
        if self._edited:
            return input(PROMPT)
        if self.interactive:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _line_editing() -> Callable[[], str]:
    """Give input() line editing and an unsaved history, if Python has readline.

    Returns a function that gives the line typed so far. Import readline only for a terminal: it may
    write to standard output.
    """
    try:
        import readline
    except ImportError:  # Windows, and Pythons built without it
        return _unknown
    return readline.get_line_buffer


def _unknown() -> str:
    return ""
