"""The settings hold every default; the options and --help only repeat them."""

from __future__ import annotations

from argparse import Action
from dataclasses import fields
from typing import Any

import pytest

from stip_server.options import SETTINGS, parser

OPTIONS: dict[str, Action] = {action.dest: action for action in parser()._actions}
DEFAULTS: dict[str, Any] = {
    field.name: field.default for settings in SETTINGS for field in fields(settings)
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_setting_is_an_option_with_the_same_default(name: str) -> None:
    assert OPTIONS[name].option_strings == [f"--{name.replace('_', '-')}"]
    assert OPTIONS[name].default == DEFAULTS[name]
    assert parser().parse_args(["--model", "x"]).__dict__[name] == DEFAULTS[name]


def test_no_other_option_has_a_default() -> None:
    others = {name: OPTIONS[name].default for name in OPTIONS.keys() - DEFAULTS.keys()}
    assert all(default in (None, False, "==SUPPRESS==") for default in others.values()), others


def test_help_shows_the_defaults() -> None:
    text = " ".join(parser().format_help().split())
    assert "the weights are loaded (50%)" in text
    assert "further steps wait (256.0 MiB)" in text
    for name in ("port", "max_sessions", "max_step_rows", "max_batch_rows", "grace"):
        assert f"({DEFAULTS[name]:g})" in text


def test_a_command_line_changes_only_the_settings_it_names() -> None:
    arguments = parser().parse_args(["--model", "x", "--max-sessions", "3", "--cpu"])
    changed = {
        field.name: getattr(found, field.name)
        for found in (settings.of(arguments) for settings in SETTINGS)
        for field in fields(found)
        if getattr(found, field.name) != field.default
    }
    assert changed == {"max_sessions": 3, "cpu": True}
