"""The messages of a conversation. Knows no terminal and no network."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stip_client.bundle.chat_template import Message
from stip_client.bundle.prompt import valid_text
from stip_client.errors import ClientError


@dataclass(frozen=True)
class Turn:
    """One message. `stopped`: the reply was stopped before its end."""

    role: Literal["user", "assistant"]
    content: str
    stopped: bool = False


class Conversation:
    """Messages that alternate between user and assistant, after an optional system prompt."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Turn] = []

    def __len__(self) -> int:
        """The number of messages without the system prompt."""
        return len(self._turns)

    @property
    def messages(self) -> Sequence[Message]:
        """All messages, in the form of a chat template."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + [{"role": turn.role, "content": turn.content} for turn in self._turns]

    def add_question(self, text: str) -> None:
        """Add the user's message. Raises RequestError if it is not valid text."""
        self._turns.append(Turn("user", valid_text(text, "message")))

    def add_reply(self, text: str, *, stopped: bool = False) -> None:
        """Add the reply to the user's message."""
        self._turns.append(Turn("assistant", text, stopped))

    def remove_unanswered(self) -> None:
        """Remove the last message if it has no reply."""
        if self._turns and self._turns[-1].role == "user":
            self._turns.pop()

    def reset(self) -> None:
        """Remove every message except the system prompt."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Write the messages as a JSON list to a new file that only its owner may read (mode 0600).

        Raises ClientError if the file exists or cannot be written.
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
