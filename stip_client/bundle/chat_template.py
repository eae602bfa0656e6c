"""Renders a conversation as a prompt, with the checkpoint's own Jinja template in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stip_client.bundle.tokenizer_files import read_tokenizer_config, special_tokens
from stip_client.errors import BundleError, RequestError

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template as transformers stores and calls it. Raises BundleError for a broken one."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda text: datetime.now().strftime(text)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BundleError(f"the chat template is broken: {error}") from error
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate | None:
        """chat_template.jinja, else tokenizer_config.json's chat_template; None without either."""
        config = read_tokenizer_config(folder)
        file = folder / "chat_template.jinja"
        source = file.read_text("utf-8") if file.exists() else config.get("chat_template")
        if isinstance(source, list):  # several named templates
            named = {each["name"]: each["template"] for each in source}
            source = named.get("default")
        if not source:
            return None
        return cls(source, special_tokens(config))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The prompt for a conversation. Raises RequestError if the template refuses it."""
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (TemplateError, SecurityError, TypeError) as error:
            raise RequestError(f"the chat template refuses the conversation: {error}") from error


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
