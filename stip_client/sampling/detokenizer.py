"""From tokens to text, piece by piece: never a broken character, never past a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from stip_client.errors import RequestError

# Stands for bytes that are no character, or none yet.
REPLACEMENT = "\ufffd"
# Tokens in a row that each end within a character, after which they are taken for none.
LONGEST = 32


class TextStream:
    """Decodes tokens as they come. A character whose bytes are not complete is held back.

    What a token adds depends on those before it, so it is what the text of some of them becomes
    longer by (as in Hugging Face's text-generation-inference). The tokenizers package's own
    DecodeStream raises an error where byte tokens turn out not to be UTF-8.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if any(not each for each in stop):
            raise RequestError("a stop string is empty")
        self._tokenizer = tokenizer
        # tokens whose text has been told, and after them those whose text is not complete
        self._told: list[int] = []
        self._untold: list[int] = []
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
        self._untold.append(token)
        before = self._tokenizer.decode(self._told)
        text = self._tokenizer.decode(self._told + self._untold)
        incomplete = text.endswith(REPLACEMENT) and len(self._untold) < LONGEST
        if len(text) <= len(before) or incomplete:
            return ""
        self._told, self._untold = self._untold, []
        added: str = text[len(before) :]
        return added

    def flush(self) -> str:
        """What was held back as the possible beginning of a stop string."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
