"""Runs a command in a terminal of its own, and types at it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psutil

from tests.support.waiting import PATIENCE, eventually

# Seconds without a turn on a core, asleep, after which a thread counts as waiting for a key.
REST = 0.2
CTRL_C, CTRL_D = "\x03", "\x04"


class Typist:
    """The terminal's other side. `shown` is all that has been shown and not yet been looked for."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self.shown = ""
        self.everything = ""
        self._rest = b""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def until(self, pattern: str) -> str:
        """What is shown up to a pattern, the pattern included."""
        deadline = monotonic() + PATIENCE
        while (found := re.search(pattern, self.shown)) is None:
            if not self._read(deadline):
                raise AssertionError(f"{pattern!r} was never shown, but {self.shown!r}")
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text

    def until_or_end(self, pattern: str) -> bool:
        """Whether a pattern is shown before the command ends. What is shown up to it is dropped."""
        deadline = monotonic() + PATIENCE
        while (found := re.search(pattern, self.shown)) is None:
            if not self._read(deadline):
                return False
        self.shown = self.shown[found.end() :]
        return True

    def ask(self, line: str) -> str:
        """Type a line at the prompt; what is shown until there is a prompt again."""
        self.type(line + "\n")
        self.until(re.escape(line) + r"\r\n")
        return self.until(r"(?:^|\n)> ").removesuffix("> ")

    def settle(self) -> None:
        """Wait until the program waits for the next key: until its main thread rests.

        A signal that CPython's readline gets between a key and that wait stays unseen until another
        key. A person is slower, this is not.
        """
        process = psutil.Process(self.process.pid)

        def rests() -> bool:
            before = process.num_ctx_switches()
            sleep(REST)
            same = process.num_ctx_switches() == before
            return same and process.status() == psutil.STATUS_SLEEPING

        eventually(rests)

    def leaves(self) -> int:
        """The exit status, when the command has ended."""
        deadline = monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - monotonic()))
        if not ready:
            return False
        try:
            data = self._rest + os.read(self._terminal, 65536)
        except OSError:  # Linux: nobody has the other side open any more
            return False
        text = data.decode(errors="ignore")  # a character may be cut
        self._rest = b"" if data == text.encode() else data[len(text.encode()) :]
        self.shown += text
        self.everything += text
        return bool(data)


@contextmanager
def typing(folder: Path, *arguments: object, program: str = "stip_client") -> Iterator[Typist]:
    """A program with some arguments in a terminal, run in a folder; killed at the end."""
    terminal, other = pty.openpty()
    # a dumb terminal: readline then writes nothing that is not text
    environment = {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull, "PYTHONUTF8": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", program, *map(str, arguments)],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: _own_terminal(other),
    )
    os.close(other)
    try:
        yield Typist(process, terminal)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(terminal)


def _own_terminal(descriptor: int) -> None:
    """Make it the terminal whose Ctrl-C the process gets."""
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
