"""What single tokens are as bytes and text, for log-probabilities.

A token may hold part of a character, so its text alone can be lossy and its bytes are told too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
WORD_START = "\u2581"  # SentencePiece's space


class TokenText:
    """The tokens of a tokenizer, one at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token_id: token.content
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
        }
        self._special = {
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self._byte_level = _names(json.loads(tokenizer.to_str())["decoder"], "ByteLevel")

    def is_special(self, token_id: int) -> bool:
        """Whether a token is none of the text, such as the end of a turn."""
        return token_id in self._special

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of many tokens, special ones included."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text; none for an id that no token has."""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(table[character] for character in token)
        if byte := BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace(WORD_START, " ").encode()

    def text(self, token_id: int) -> str:
        r"""A token as text; as bytes:\xf0\x9f, like OpenAI, where it is no whole characters."""
        content = self.bytes(token_id)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _names(decoder: dict[str, Any] | None, kind: str) -> bool:
    """Whether a decoder of tokenizer.json is of a kind, or one of a sequence is."""
    if decoder is None:
        return False
    return decoder["type"] == kind or any(
        _names(each, kind) for each in decoder.get("decoders", ())
    )


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, other bytes for U+0100 and on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}
