"""OpenAI's objects: a chat or a completion, whole or in chunks. Knows no HTTP."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stip_client.gateway.logprobs import TokenLogprob, chat_logprobs, completion_logprobs
from stip_client.gateway.token_text import TokenText

Json = dict[str, Any]


@dataclass(frozen=True)
class FinishedChoice:
    """One finished reply. `tokens` is None if the request wants no log-probabilities."""

    text: str
    finish_reason: str
    tokens: Sequence[TokenLogprob] | None


@dataclass
class Usage:
    """Token counts: of the prompts, of the prompts' tokens that were cached, and generated."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class ChatObjects:
    """Builds the objects that answer one POST /v1/chat/completions."""

    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, token_text: TokenText, *, include_usage: bool) -> None:
        self._head: Json = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        # with include_usage every chunk has a usage, which is null in all but the last
        self._tail: Json = {"usage": None} if include_usage else {}
        self._token_text = token_text

    def whole(self, choices: Sequence[FinishedChoice], usage: Usage) -> Json:
        """All choices in one object."""
        return {
            **self._head,
            "object": self.object,
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage.to_json(),
        }

    def first_chunk(self, index: int) -> Json | None:
        """The chunk before a choice's text, or None."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        )

    def chunk(self, index: int, text: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        """More of a choice's text."""
        choice = {"index": index, "delta": {"content": text}, "logprobs": self._logprobs(tokens)}
        return self._chunk({**choice, "finish_reason": None})

    def last_chunk(self, index: int, finish_reason: str) -> Json:
        """The end of a choice."""
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choice)

    def usage_chunk(self, usage: Usage) -> Json:
        """The last chunk of a stream with include_usage."""
        head = {**self._head, "object": self.chunk_object}
        return {**head, "choices": [], "usage": usage.to_json()}

    def _chunk(self, choice: Json) -> Json:
        return {**self._head, "object": self.chunk_object, "choices": [choice], **self._tail}

    def _choice(self, index: int, choice: FinishedChoice) -> Json:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob] | None) -> Json | None:
        return None if tokens is None else chat_logprobs(tokens, self._token_text)


class CompletionObjects(ChatObjects):
    """Builds the objects that answer one POST /v1/completions."""

    id_prefix = "cmpl"
    object = chunk_object = "text_completion"

    def first_chunk(self, index: int) -> Json | None:  # noqa: ARG002
        return None

    def chunk(self, index: int, text: str, tokens: Sequence[TokenLogprob] | None) -> Json:
        choice = {"index": index, "text": text, "logprobs": self._logprobs(tokens)}
        return self._chunk({**choice, "finish_reason": None})

    def last_chunk(self, index: int, finish_reason: str) -> Json:
        choice = {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choice)

    def _choice(self, index: int, choice: FinishedChoice) -> Json:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprob] | None) -> Json | None:
        return None if tokens is None else completion_logprobs(tokens, self._token_text)
