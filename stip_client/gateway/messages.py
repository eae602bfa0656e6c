"""The messages of a chat, as the chat template takes them: a role and text."""

from __future__ import annotations

from typing import Any

from stip_client.bundle.chat_template import Message
from stip_client.gateway.fields import Fields, check_text, invalid, unsupported

# OpenAI calls the system's messages the developer's where a model reasons; templates do not.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
CALLS = ("tool_calls", "function_call", "audio")


def parse_messages(value: object) -> tuple[Message, ...]:
    """The messages of a request. Raises ApiError."""
    if value is None:
        invalid("messages", "the request holds no messages", "missing_required_parameter")
    if not isinstance(value, list) or not value:
        invalid("messages", "messages must be a list of one message or more")
    return tuple(_message(each, f"messages[{number}]") for number, each in enumerate(value))


def _message(value: object, param: str) -> Message:
    if not isinstance(value, dict):
        invalid(param, f"{param} must be an object with role and content")
    fields = Fields(value, f"{param}.")
    role = fields.text("role")
    if role in ("tool", "function"):
        unsupported(f"{param}.role", f"{param}.role: tools are not supported by this gateway")
    if role not in ROLES:
        invalid(f"{param}.role", f"{param}.role must be one of {', '.join(ROLES)}")
    for name in fields.present(CALLS):
        unsupported(fields.param(name))
    return {"role": ROLES[role], "content": _content(value.get("content"), f"{param}.content")}


def _content(value: object, param: str) -> str:
    """Text, or the parts of a text one behind the other."""
    if not isinstance(value, list):
        return check_text(param, value)
    return "".join(_part(each, f"{param}[{number}]") for number, each in enumerate(value))


def _part(value: Any, param: str) -> str:
    if not isinstance(value, dict):
        invalid(param, f"{param} must be an object with type and text")
    fields = Fields(value, f"{param}.")
    kind = fields.text("type")
    if kind != "text":
        unsupported(f"{param}.type", f"{param}.type: only parts of text are supported")
    return check_text(f"{param}.text", value.get("text"))
