"""Errors as sentences for the page: what was wrong, and what to do about it."""

from __future__ import annotations

from stip_client.errors import ClientError

# gRPC appends every address, in an encoding of its own, after this text.
_GRPC_DETAIL = "; last error: "


def error_text(error: ClientError) -> str:
    """An error and its hint as sentences."""
    text = _sentence(str(error).partition(_GRPC_DETAIL)[0])
    return f"{text} {_sentence(error.hint)}" if error.hint else text


def _sentence(text: str) -> str:
    text = text.rstrip(".")
    first = text.split(" ", 1)[0].rstrip(",:")
    # a text that begins with a name, a path or a value stays as it is
    if first.isalpha() and first.islower():
        text = text[0].upper() + text[1:]
    return text if text.endswith(("?", "!")) else f"{text}."
