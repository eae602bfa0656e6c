"""Reads the members of a JSON object by their types. null counts as absent, as with OpenAI."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from stip_client.gateway.errors import ApiError


def invalid(param: str | None, message: str, code: str | None = None) -> NoReturn:
    """Refuse the request because of one of its members."""
    raise ApiError(400, message, param=param, code=code)


def unsupported(param: str, message: str | None = None) -> NoReturn:
    """Refuse a member that OpenAI knows and the gateway does not."""
    invalid(param, message or f"{param} is not supported by this gateway", "unsupported_parameter")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a request's body is. Raises ApiError."""
    try:
        parsed = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # the parser's message may quote the body
        invalid(None, "the body is not valid JSON", "invalid_json")
    if not isinstance(parsed, dict):
        invalid(None, "the body is not a JSON object", "invalid_json")
    return parsed


class Fields:
    """A JSON object's members. `path` precedes their names in errors."""

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        self._members = members
        self._path = path

    def param(self, name: str) -> str:
        """The member's name as errors tell it."""
        return f"{self._path}{name}"

    def get(self, name: str) -> Any:
        """The member as it is; None where it is absent."""
        return self._members.get(name)

    def present(self, names: Iterable[str]) -> list[str]:
        """Those of the names that hold something: neither null nor false, empty or 0."""
        return [name for name in names if self._members.get(name)]

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from low to high."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            invalid(self.param(name), f"{self.param(name)} must be a number")
        if not low <= value <= high:
            invalid(self.param(name), f"{self.param(name)} must be from {low:g} to {high:g}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer from low to high; None where it is absent."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            invalid(self.param(name), f"{self.param(name)} must be an integer")
        if not low <= value <= high:
            invalid(self.param(name), f"{self.param(name)} must be from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """true or false; false where it is absent."""
        value = self.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            invalid(self.param(name), f"{self.param(name)} must be true or false")
        return value

    def text(self, name: str) -> str | None:
        """A string; None where it is absent."""
        value = self.get(name)
        return None if value is None else check_text(self.param(name), value)


def check_text(param: str, value: object) -> str:
    """The value, if it is text that a tokenizer can take."""
    if not isinstance(value, str):
        invalid(param, f"{param} must be a string")
    if any("\ud800" <= character <= "\udfff" for character in value):
        invalid(param, f"{param} holds half of a surrogate pair, which is not text")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity: Python's parser takes them, JSON has none
