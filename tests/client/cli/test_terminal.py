"""What is written to a terminal: readable in every script, and no command to it."""

from __future__ import annotations

import io
import logging

import pytest

from stip_client.cli.terminal import printable, printed_warnings, reply_text

STEERING = "a\x1b[2Jb\rc\u202ed\u0085\u2028\ud800"
ESCAPED = r"a\x1b[2Jb\rc\u202ed\x85\u2028\ud800"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_could_steer_a_terminal_is_escaped() -> None:
    assert printable(STEERING) == ESCAPED


def test_text_stays_as_it_is() -> None:
    text = "日本語\u3000と\n\té e\u0301 👩\u200d💻 \u00a0 می\u200cخواهم"
    assert printable(text) == text


def test_a_reply_is_escaped_for_a_terminal_alone() -> None:
    assert reply_text(STEERING, Terminal()) == ESCAPED
    assert reply_text(STEERING, io.StringIO()) == STEERING


def test_warnings_of_the_library_are_told_in_lines_of_our_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("stip_client.session.recovering_session")
    with printed_warnings():
        log.warning("the server said %s", "\x1b[2J\n")
        log.info("and this is nobody's concern")
    log.warning("nor this")
    assert capsys.readouterr().err == "stip-client: warning: the server said \\x1b[2J\\n\n"
