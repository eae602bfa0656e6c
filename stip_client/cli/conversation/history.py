"""A conversation's history, apart from how it is typed, sent and shown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stip_client.bundle.chat_template import Message
from stip_client.errors import ClientError, RequestError


@dataclass(frozen=True)
class Turn:
    """One message. `stopped`: a reply that was stopped before its end."""

    role: Literal["user", "assistant"]
    content: str
    stopped: bool = False


class Conversation:
    """Messages that alternate between user and assistant, behind a system prompt or none."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Turn] = []

    def __len__(self) -> int:
        """The number of messages, the system prompt not counted."""
        return len(self._turns)

    @property
    def messages(self) -> Sequence[Message]:
        """All messages, as a chat template takes them."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + [{"role": turn.role, "content": turn.content} for turn in self._turns]

    def ask(self, text: str) -> None:
        """Add the user's message. Raises RequestError for what no tokenizer takes."""
        self._turns.append(Turn("user", valid_text(text)))

    def answer(self, text: str, *, stopped: bool = False) -> None:
        """Add the reply to the user's message."""
        self._turns.append(Turn("assistant", text, stopped))

    def take_back(self) -> None:
        """Remove the user's message that had no reply."""
        if self._turns and self._turns[-1].role == "user":
            self._turns.pop()

    def reset(self) -> None:
        """Forget every message but the system prompt."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Write the messages as a JSON list that its owner alone may read (mode 0600).

        Raises ClientError where the file exists or cannot be written.
        """
        listed = [dict(each) for each in self.messages]
        for message, turn in zip(listed[-len(self._turns) :], self._turns, strict=False):
            if turn.stopped:
                message["stopped"] = True
        text = json.dumps(listed, ensure_ascii=False, indent=2) + "\n"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ClientError(f"{path} exists", hint="save under another name") from None
        except OSError as error:
            raise ClientError(f"cannot write {path}: {error.strerror}") from error


def valid_text(text: str) -> str:
    """The text. Raises RequestError for lone surrogates, which stand for bytes outside UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError("the message is not valid UTF-8 text")
    return text
