"""Turns tokens into text piece by piece, with whole characters, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from stip_client.errors import RequestError

# Stands for bytes that are not a complete character.
REPLACEMENT = "\ufffd"
# After this many tokens that each end within a character, the bytes are not UTF-8.
LONGEST = 32


class TextStream:
    """Decodes tokens as they come, and holds back incomplete characters.

    The text of a token depends on earlier tokens. So a few earlier tokens are decoded with and
    without it, and the difference is its text (as in Hugging Face's text-generation-inference).
    The tokenizers package's DecodeStream raises an error for bytes that are not UTF-8.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if any(not each for each in stop):
            raise RequestError("a stop string is empty")
        self._tokenizer = tokenizer
        # tokens whose text was returned, and after them those whose text is incomplete
        self._returned: list[int] = []
        self._incomplete: list[int] = []
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain now; sets `stopped` when a stop string has appeared."""
        self._held += self._decode(token)
        found = [at for at in (self._held.find(each) for each in self._stop) if at >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((_overlap(self._held, each) for each in self._stop), default=0)
        text = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return text

    def _decode(self, token: int) -> str:
        self._incomplete.append(token)
        before = self._tokenizer.decode(self._returned)
        text = self._tokenizer.decode(self._returned + self._incomplete)
        incomplete = text.endswith(REPLACEMENT) and len(self._incomplete) < LONGEST
        if len(text) <= len(before) or incomplete:
            return ""
        self._returned, self._incomplete = self._incomplete, []
        added: str = text[len(before) :]
        return added

    def flush(self) -> str:
        """The text that was held back because a stop string may begin in it."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a prefix of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
