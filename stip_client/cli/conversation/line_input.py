"""The lines that somebody types at a prompt, or pipes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from time import monotonic

PROMPT = "> "
# A Ctrl-C that comes so soon after a reply's end was meant for the reply.
REACTION = 0.5


class LineInput:
    """Standard input, line by line; with a prompt and line editing where it is a terminal."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.interactive = sys.stdin.isatty()
        # input() edits lines only where it also writes to the terminal
        self._edited = self.interactive and sys.stdout.isatty()
        self._typed = _line_editing() if self._edited else _unknown
        if isinstance(sys.stdin, io.TextIOWrapper):
            # bytes that are not UTF-8 are refused where they are used, not by an exception here
            sys.stdin.reconfigure(errors="surrogateescape")

    def read(self) -> str | None:
        """The next line, without its end; None at the end of the input.

        Ctrl-C clears what has been typed; raises KeyboardInterrupt where nothing has been.
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
    """Give input() line editing, and a history that is kept nowhere, where Python has readline.

    Returns what tells the line as far as it has been typed. Not imported where nobody types: it may
    write to standard output.
    """
    try:
        import readline
    except ImportError:  # Windows, and Pythons that were built without it
        return _unknown
    return readline.get_line_buffer


def _unknown() -> str:
    return ""
