"""What README and docs show to copy works: commands, Python, units, links."""

from __future__ import annotations

import plistlib
import re
import shlex
from pathlib import Path

import pytest

from stip_server.options import parser
from tests.support.document import ROOT, Block, Runner, blocks, missing_programs

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATING = ROOT / "docs" / "operating.md"
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
# what a page takes as already made, when it does not make it itself
SETUP = """\
$ stip-keys new -o master.key
$ stip-keys convert stip_client/cli/demo_model --key master.key -o bundles
$ stip-server --model bundles/server --allow-echo
"""


SHOWING = [
    page for page in PAGES if {each.language for each in blocks(page)} & {"console", "python"}
]


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.stem)
def test_every_command_and_every_python_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    shown = list(blocks(page))
    if absent := missing_programs(page.read_text(encoding="utf-8")):
        pytest.skip(f"{', '.join(absent)} is not installed here")
    runner = Runner(tmp_path)
    try:
        if not any("stip-keys new -o master.key" in block.text for block in shown):
            runner.run_console(SETUP)
        python = ""
        for block in shown:
            if block.language == "console":
                runner.run_console(block.text)
            elif block.language == "python":
                python = with_its_client(python, block)
                runner.run_python(python)
    finally:
        runner.stop()


def with_its_client(before: str, block: Block) -> str:
    """A block that uses the client of the block before stands inside its `with`."""
    if "import" in block.text:
        return block.text
    return before + "".join(f"    {line}\n" for line in block.text.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_and_every_path_of_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    # in a package where the page does not say in which
    folders = [ROOT, *(ROOT / package for package in ("stip_client", "stip_server", "stip_model"))]
    for path in re.findall(r"`((?:\w+/)+\w+\.\w+)`", text):
        if not any((folder / path).exists() for folder in folders):
            missing.append(path)
    assert not missing


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12 * 1024
    assert len(text.splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_can_be_read(page: Path) -> None:
    rows = re.findall(r"^\|.*\|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(row.count(" | ") <= 5 for row in rows)


def block(language: str) -> str:
    return next(each.text for each in blocks(OPERATING) if each.language == language)


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
