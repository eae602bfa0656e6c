"""Writes log records to stderr, one line each, as text or as JSON.

A message is a constant, followed by fields for everything that varies. Fields are plain values.
Text from callers is escaped, so that it cannot forge a record or control a terminal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

Field = str | int | float | bool | None

# what a JSON record holds besides its fields
_RESERVED = frozenset({"time", "level", "logger", "message", "exception"})
_ATTRIBUTE = "stip_fields"
# The logger for messages at start. As text they look like the messages of any command.
CONSOLE = "stip-server"
_PREFIXES = {"WARNING": "warning: ", "ERROR": "error: "}


def configure_logging(level: str, format: str) -> None:
    """Write all log records and warnings of the process to stderr, those of libraries too.

    `level` is one of LEVELS, `format` one of FORMATS; ValueError otherwise.
    """
    if level not in LEVELS or format not in FORMATS:
        raise ValueError(f"{level!r} must be one of {LEVELS}, and {format!r} one of {FORMATS}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    handler.addFilter(_shows_no_metadata)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for other in ("asyncio", "grpc"):  # their lower levels describe only their internals
        logging.getLogger(other).setLevel(max(logging.WARNING, logging.getLogger().level))


def _shows_no_metadata(record: logging.LogRecord) -> bool:
    """False if gRPC logs metadata that is not UTF-8: it would show the value, even of a token."""
    return not (record.name.startswith("grpc.") and str(record.msg).startswith("Invalid encoding"))


def event(
    log: logging.Logger,
    level: int,
    message: str,
    /,
    *,
    exc_info: bool | BaseException = False,
    **fields: Field,
) -> None:
    """Log a constant message with fields.

    Raises TypeError for a field that is not a str, a number, a bool or None: arrays and bytes
    could hold hidden states, logits or credentials. Raises ValueError for a reserved name.
    """
    # checked at every level, so that tests find a mistake in debug messages too
    for name, value in fields.items():
        if name in _RESERVED:
            raise ValueError(f"the field name {name!r} is reserved")
        if value is not None and not isinstance(value, (str, int, float)):
            raise TypeError(
                f"the log field {name!r} is {type(value).__name__}, not str, number, bool or None"
            )
    log.log(level, message, exc_info=exc_info, extra={_ATTRIBUTE: fields}, stacklevel=2)


def session_label(session_id: bytes) -> str:
    """The name of a session in the log: 8 hex digits of the SHA-256 of its id.

    The id itself must stay secret, since it is enough to resume the session.
    """
    return hashlib.sha256(session_id).hexdigest()[:8]


class _TextFormatter(logging.Formatter):
    """TIME LEVEL LOGGER MESSAGE NAME=VALUE ..., and a traceback in indented lines below."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == CONSOLE:
            return _console_lines(record)
        line = f"{_time(record)} {record.levelname} {record.name} {_escape(record.getMessage())}"
        for name, value in _fields(record).items():
            line += f" {name}={_quote(_spell(value))}"
        for text in _trace(self, record).splitlines():
            # indented, since an exception's message may contain a line that looks like a record
            line += f"\n  {_escape(text)}"
        return line


class _JsonFormatter(logging.Formatter):
    """One object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Field] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            # JSON has no NaN and no infinity
            finite = not isinstance(value, float) or math.isfinite(value)
            entry[name] = value if finite else str(value)
        if trace := _trace(self, record):
            entry["exception"] = trace
        return json.dumps(entry)


def _console_lines(record: logging.LogRecord) -> str:
    """PROGRAM: LEVEL: MESSAGE, then a line PROGRAM: NAME: VALUE for each field that is set."""
    texts = [_PREFIXES.get(record.levelname, "") + record.getMessage()]
    texts += [f"{name}: {value}" for name, value in _fields(record).items() if value is not None]
    return "\n".join(f"{CONSOLE}: {_escape(text)}" for text in texts)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, _ATTRIBUTE, {})


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _spell(value: Field) -> str:
    """The value as in JSON, without quotes."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _quote(text: str) -> str:
    """The text itself if it is one plain word, otherwise quoted and escaped."""
    if text and text.isprintable() and not any(character in ' "=\\' for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escape(escaped)}"'


def _escape(text: str) -> str:
    """Line breaks, terminal escapes and invisible characters as \\n, \\x1b, \\u202e and so on."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
