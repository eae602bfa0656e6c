"""Prompts as tokens: which belong to the chat template, and which to the user's text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stip_keys.convert.checkpoint import read_json
from stip_keys.convert.errors import CheckpointError

# What a row sent stands for.
TEMPLATE, USER, REPLY = range(3)
KINDS = ("template", "user", "reply")
# Rendered in place of the user's text, to find what the template puts before and after it.
PLACEHOLDER = "STIP-AUDIT-PLACEHOLDER"


@dataclass(frozen=True)
class Prompt:
    """The tokens of one prompt, int64 [rows], and what each stands for: int64 [rows]."""

    tokens: NDArray[np.int64]
    kinds: NDArray[np.int64]


class PromptEncoder:
    """A checkpoint's tokenizer and chat template. Raises CheckpointError for a broken one."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()  # a stored truncation or padding would alter the prompts
        self._tokenizer.no_padding()
        self._around = _around(folder)

    def encode(self, text: str) -> Prompt:
        """A user's text as a client sends it: in the chat template, where there is one.

        A token that holds characters of both the template and the user counts as the user's. Raises
        CheckpointError for a text that gives no tokens.
        """
        text = text.strip()
        before, after = self._around or ("", "")
        # a template writes the special tokens itself
        encoding = self._tokenizer.encode(
            before + text + after, add_special_tokens=self._around is None
        )
        if not encoding.ids:
            raise CheckpointError(f"the prompt {text!r} gives no tokens")
        special = np.array(encoding.special_tokens_mask, bool)
        starts, ends = np.array(encoding.offsets).T
        user = (ends > len(before)) & (starts < len(before) + len(text)) & ~special
        return Prompt(np.array(encoding.ids), np.where(user, USER, TEMPLATE))


def common_template(prompts: Sequence[Prompt]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens that every prompt begins and ends with, before and after the user's."""
    before = [each.tokens[: int(np.argmax(each.kinds == USER))] for each in prompts]
    after = [each.tokens[::-1][: int(np.argmax(each.kinds[::-1] == USER))] for each in prompts]
    return _common(before), _common(after)[::-1]


def _common(sequences: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The longest beginning that all sequences share."""
    length = min(map(len, sequences))
    stacked = np.stack([each[:length] for each in sequences])
    differs = (stacked != stacked[0]).any(axis=0)
    return stacked[0, : int(np.argmax(differs)) if differs.any() else length]


def _around(folder: Path) -> tuple[str, str] | None:
    """What the chat template puts before and after the user's text; None without a template."""
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    config = read_json(config_file) if config_file.exists() else {}
    source: Any = config.get("chat_template")
    if template_file.exists():
        try:
            source = template_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read {template_file}: {error}") from error
    if isinstance(source, list):  # several named templates
        source = {each["name"]: each["template"] for each in source}.get("default")
    if not source:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None, **_: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
    special = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in config.items()
        if name.endswith("_token") and isinstance(token, (str, dict))
    }
    try:
        text = environment.from_string(source).render(
            messages=[{"role": "user", "content": PLACEHOLDER}],
            add_generation_prompt=True,
            **special,
        )
    except (TemplateError, SecurityError, TypeError) as error:
        raise CheckpointError(f"the chat template is broken: {error}") from error
    before, found, after = text.partition(PLACEHOLDER)
    if not found:
        raise CheckpointError("the chat template leaves the user's text out")
    return before, after


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
