"""Prompts as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index

from stip_client.bundle.chat_template import Message
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import RequestError

Prompt = str | Sequence[int] | Sequence[Message]


def encode_prompt(bundle: ClientBundle, prompt: Prompt, *, raw: bool = False) -> list[int]:
    """The token ids of a prompt.

    Text becomes the user's message in the bundle's chat template. Without a template, or with
    `raw`, it is tokenized as it is. A list of messages goes through the template; token ids are
    taken as they are. Raises RequestError for an empty prompt.
    """
    if isinstance(prompt, str):
        valid_text(prompt, "prompt")
        if raw or bundle.chat_template is None:
            token_ids: list[int] = bundle.tokenizer.encode(prompt).ids
            return _not_empty(token_ids)
        prompt = [{"role": "user", "content": prompt}]
    messages = [each for each in prompt if isinstance(each, Mapping)]
    if not messages:
        try:
            return _not_empty([index(each) for each in prompt])  # type: ignore[arg-type]
        except TypeError:
            raise RequestError("a prompt is text, token ids or messages") from None
    if len(messages) != len(prompt):
        raise RequestError("a prompt of messages holds nothing else")
    if bundle.chat_template is None:
        raise RequestError("this bundle has no chat template for a list of messages")
    text = bundle.chat_template.render(messages)
    # the template writes the special tokens itself
    return _not_empty(bundle.tokenizer.encode(text, add_special_tokens=False).ids)


def valid_text(text: str, what: str) -> str:
    """The text. Raises RequestError for lone surrogates, which stand for invalid UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(f"the {what} is not valid UTF-8 text")
    return text


def _not_empty(token_ids: list[int]) -> list[int]:
    if not token_ids:
        raise RequestError("the prompt is empty")
    return token_ids
