"""Runs what a document shows: its console commands in order, and its Python.

Servers, the gateway and the page start in the background on free ports. They stay until the next
command of the same program, or the end of the document.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.typist import Typist, typing

ROOT = Path(__file__).parents[2]
PASSPHRASE = "correct horse battery staple"
# Addresses that documents name, and the program that listens there.
PORTS = {"50051": "stip-server", "8080": "stip-client serve", "7860": "stip-client web"}
# The tests themselves, and what `stip-client demo` runs as well (tests/end_to_end/test_demo.py).
NOT_RUN = ("make demo", "make test", "make help", ". .venv/bin/activate")
PATIENCE = 300.0


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    text: str


@dataclass
class Runner:
    """Runs blocks in one folder, which holds a link to the product for the demo model's path."""

    folder: Path
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "stip_client").symlink_to(ROOT / "stip_client")

    def run_console(self, text: str) -> list[str]:
        """Run every command of a console block; the commands that were run."""
        run = []
        for command, shown in commands(text):
            if command in NOT_RUN:
                continue
            program = next((each for each in PORTS.values() if command.startswith(each)), None)
            if program is not None:
                self._start(program, self._here(command))
            elif "--passphrase" in command or "wrapped.key" in command:
                self._type_passphrases(self._here(command))
            else:
                typed = "".join(f"{line[2:]}\n" for line in shown if line.startswith("> "))
                self._run(self._here(command), typed)
            run.append(command)
        return run

    def run_python(self, text: str) -> None:
        """Run a Python block as a script."""
        script = self.folder / "block.py"
        script.write_text(self._here(text), encoding="utf-8")
        self._run(f"{sys.executable} block.py", "")

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def _here(self, text: str) -> str:
        """The text with the ports of this run; commands name their server."""
        talks = re.search(r"stip-client (generate|chat|bench|serve|web)", text)
        if talks and "--server" not in text:
            text += " --server localhost:50051"
        for port in PORTS:
            text = re.sub(rf"(?<=:){port}\b", lambda found: self._port(found[0]), text)
        return text

    def _port(self, documented: str) -> str:
        if documented not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[documented] = str(probe.getsockname()[1])
        return self.ports[documented]

    def _start(self, program: str, command: str) -> None:
        if (former := self.running.pop(program, None)) is not None:
            former.send_signal(signal.SIGTERM)
            former.communicate(timeout=PATIENCE)
        port = self._port(next(port for port, each in PORTS.items() if each == program))
        command = re.sub(r" --port \d+", "", command) + f" --port {port}"
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.running[program] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), (command, line)

    def _run(self, command: str, typed: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment(),
            input=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def _type_passphrases(self, command: str) -> None:
        program, *arguments = command.split()
        with typing(self.folder, *arguments, program=program.replace("-", "_")) as typist:
            self._answer(typist)
            assert typist.leaves() == 0, (command, typist.everything)

    @staticmethod
    def _answer(typist: Typist) -> None:
        """Type the passphrase at every prompt until the command ends."""
        while typist.until_or_end(r"(?i)(passphrase|again)[^\n]*: $"):
            typist.type(PASSPHRASE + "\n")


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2])


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `$ ` command of a console block, with the lines that are shown after it."""
    joined = text.replace("\\\n", " ")
    command: str | None = None
    shown: list[str] = []
    for line in joined.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line.removeprefix("$ ").strip(), []
        else:
            shown.append(line)
    if command is not None:
        yield command, shown


def environment() -> dict[str, str]:
    """The command lines of this Python first."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


def missing_programs(text: str) -> list[str]:
    """Programs that a document's commands need and this machine lacks."""
    return [each for each in ("curl", "openssl") if each in text and shutil.which(each) is None]
