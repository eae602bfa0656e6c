"""OpenAI's objects for replies: a chat or a completion, whole or in chunks. Knows no HTTP."""

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
    """One reply. `tokens` is None where no log-probabilities are wanted."""

    text: str
    finish_reason: str
    tokens: Sequence[TokenLogprob] | None


@dataclass
class Usage:
    """Tokens: of a request's prompts, those among them not computed again, and generated."""

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
    """The answer to one POST /v1/chat/completions."""

    id_prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, model: str, vocabulary: TokenText, *, include_usage: bool) -> None:
        self._head: Json = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        # with include_usage each chunk has a usage, and all but the last have null
        self._tail: Json = {"usage": None} if include_usage else {}
        self._vocabulary = vocabulary

    def whole(self, choices: Sequence[FinishedChoice], usage: Usage) -> Json:
        """All choices at once."""
        return {
            **self._head,
            "object": self.object,
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage.to_json(),
        }

    def first_chunk(self, index: int) -> Json | None:
        """What precedes a choice's text."""
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
        """The end of a stream that was asked to tell its usage."""
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
        return None if tokens is None else chat_logprobs(tokens, self._vocabulary)


class CompletionObjects(ChatObjects):
    """The answer to one POST /v1/completions."""

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
        return None if tokens is None else completion_logprobs(tokens, self._vocabulary)
