"""What the README shows to copy can be used: units, and the command lines in them."""

from __future__ import annotations

import plistlib
import re
import shlex
from pathlib import Path

from stip_server.options import parser

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_systemd_unit_starts_the_server_with_options_that_exist() -> None:
    unit = block("ini").replace("\\\n", " ")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command is not None
    program, *arguments = shlex.split(command[1])
    assert program.endswith("/stip-server")
    options = parser().parse_args(arguments)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None and int(stop[1]) > options.grace + 10


def test_the_launchd_unit_starts_the_server_with_options_that_exist() -> None:
    unit = plistlib.loads(block("xml").encode())
    program, *arguments = unit["ProgramArguments"]
    assert program.endswith("/stip-server")
    options = parser().parse_args(arguments)
    assert unit["ExitTimeOut"] > options.grace + 10


def test_every_command_of_the_server_parses() -> None:
    commands = re.findall(r"^\$ stip-server (.*)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        parser().parse_args(shlex.split(command))
