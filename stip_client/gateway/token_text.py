"""Single tokens as bytes and as text, for log-probabilities.

A token may hold part of a character. Its text can then lose information, so its bytes count.
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
    """Bytes and text of a tokenizer's tokens."""

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
        """Whether a token is not part of the text, such as the end of a turn."""
        return token_id in self._special

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens, special ones included."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text; empty for an unknown id."""
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
        r"""A token as text, or as `bytes:\xf0\x9f` if it is not whole characters."""
        content = self.bytes(token_id)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _names(decoder: dict[str, Any] | None, kind: str) -> bool:
    """Whether a decoder of tokenizer.json has a type, or one of its sequence has."""
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
