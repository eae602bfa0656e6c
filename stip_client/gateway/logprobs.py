"""Log-probabilities of one choice's tokens, held back until their text is sent.

A stop string ends the reply before its own first character. Tokens that begin inside a stop string
belong to neither the text nor the log-probabilities. Only the sent text shows which those are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stip_client.gateway.token_text import TokenText
from stip_client.session.generation import Piece


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the reply; `offset` is the number of characters before it."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    offset: int


class LogprobStream:
    """Receives every piece of a choice and returns the tokens whose text has been sent."""

    def __init__(self, vocabulary: TokenText, eos_token_ids: frozenset[int]) -> None:
        self._vocabulary = vocabulary
        self._eos = eos_token_ids
        # tokens held back, each with the number of bytes before it
        self._waiting: list[tuple[int, Piece]] = []
        self._tokens_bytes = 0
        self._text = bytearray()

    def push(self, piece: Piece) -> list[TokenLogprob]:
        """The tokens whose text is complete with this piece; after the last piece, all."""
        self._text += piece.text.encode()
        ended = piece.finish_reason == "stop" and piece.token_id in self._eos
        if not ended:
            self._waiting.append((self._tokens_bytes, piece))
            if not self._vocabulary.is_special(piece.token_id):
                self._tokens_bytes += len(self._vocabulary.bytes(piece.token_id))
        # no stop string ended the reply: all of it is sent
        everything = ended or piece.finish_reason == "length"
        certain = [
            (start, each) for start, each in self._waiting if everything or start < len(self._text)
        ]
        self._waiting = self._waiting[len(certain) :]
        return [self._token(start, each) for start, each in certain]

    def _token(self, start: int, piece: Piece) -> TokenLogprob:
        # a character that begins before the token counts as before it
        offset = len(self._text[:start].decode(errors="ignore"))
        return TokenLogprob(piece.token_id, piece.logprob, piece.top_logprobs, offset)


def chat_logprobs(tokens: Sequence[TokenLogprob], vocabulary: TokenText) -> dict[str, object]:
    """A chat choice's `logprobs` object."""

    def entry(token_id: int, logprob: float) -> dict[str, object]:
        content = vocabulary.bytes(token_id)
        return {"token": vocabulary.text(token_id), "logprob": logprob, "bytes": list(content)}

    content = [
        entry(token.token_id, token.logprob)
        | {"top_logprobs": [entry(*alternative) for alternative in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], vocabulary: TokenText) -> dict[str, object]:
    """A completion choice's `logprobs` object.

    The alternatives include the token itself, as with OpenAI. Of two with the same text, the
    likelier one counts.
    """

    def alternatives(token: TokenLogprob) -> dict[str, float]:
        found = [*token.top, (token.token_id, token.logprob)]
        found.sort(key=lambda each: each[1])
        return {vocabulary.text(token_id): logprob for token_id, logprob in found}

    return {
        "tokens": [vocabulary.text(token.token_id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [alternatives(token) for token in tokens],
        "text_offset": [token.offset for token in tokens],
    }
