"""Ctrl-C at a prompt: whether it is meant for the reply before or for the whole conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stip_client.cli.conversation.line_input import REACTION, LineInput


def line_input(*events: str, seconds: float) -> LineInput:
    """Somebody who does one thing after the other, so long after the prompt has appeared."""
    now = iter([0.0, *[seconds] * len(events)])
    lines = LineInput(clock=lambda: next(now))
    left = list(events)

    def line() -> str:
        event = left.pop(0)
        if event == "ctrl-c":
            raise KeyboardInterrupt
        return event

    lines._line = line  # type: ignore[method-assign]
    return lines


def typed(text: str) -> Callable[[], str]:
    return lambda: text


def test_one_that_comes_late_for_a_reply_does_nothing() -> None:
    lines = line_input("ctrl-c", "hello", seconds=REACTION)
    assert lines.read() == "hello"


def test_one_at_an_empty_prompt_leaves() -> None:
    lines = line_input("ctrl-c", "hello", seconds=REACTION + 0.01)
    with pytest.raises(KeyboardInterrupt):
        lines.read()


def test_one_that_clears_what_is_typed_does_not_leave() -> None:
    lines = line_input("ctrl-c", "hello", seconds=60.0)
    lines._typed = typed("never mind")
    assert lines.read() == "hello"
