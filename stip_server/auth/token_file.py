"""The token file lists who may call: one `NAME TOKEN` a line.

It is UTF-8 text. Blank lines and lines that begin with # are ignored. A name may have several
tokens, so that a new token can be introduced before the old one is removed. No error and no repr
shows text of a line: a token may stand where the name should be.
"""

from __future__ import annotations

import hmac
import logging
import re
from hashlib import sha256
from pathlib import Path

from stip_server.auth import watched_file
from stip_server.errors import StartError

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
TOKEN = re.compile(r"[!-~]{16,}")
LINE_HINT = "a line is NAME TOKEN; openssl rand -hex 32 makes a token"


class TokenFile:
    """The valid tokens. Only their SHA-256 digests are kept in memory."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises StartError with the number of a bad line, never with its text."""
        self._path = path
        # Before reading: the next reload then sees a change that happens meanwhile.
        self._stamp = watched_file.stamp(path)
        self._names = _read(path)
        # the version that was refused last, to log it once
        self._refused = self._stamp

    def find(self, token: str) -> tuple[str, bytes] | None:
        """The name and the digest of a token, or None if the token is unknown.

        Takes the same time for every token, known or not.
        """
        digest = sha256(token.encode()).digest()
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name, known
        return found

    def is_token_of(self, name: str, digest: bytes) -> bool:
        """Whether the token with this digest is valid and belongs to the name."""
        return self._names.get(digest) == name

    def has_name(self, name: str) -> bool:
        """Whether a valid token belongs to the name."""
        return name in self._names.values()

    def reload_if_changed(self) -> bool:
        """Read the file again if it has changed. Returns whether new tokens are valid now.

        If the file is bad or missing, the tokens stay valid and the error is logged once. A file
        that cannot be read is tried again: a process without free file descriptors must not miss
        a change.
        """
        stamp = watched_file.stamp(self._path)
        if stamp == self._stamp:
            return False
        try:
            self._names = _read(self._path)
        except StartError as error:
            if not isinstance(error, watched_file.UnreadableError):
                self._stamp = stamp
            if stamp != self._refused:
                log.error("%s; the tokens read before stay valid", error)
            self._refused = stamp
            return False
        self._stamp = stamp
        log.info("loaded %d tokens from %s", len(self._names), self._path)
        return True

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r}, {len(self._names)} tokens)"


def _read(path: Path) -> dict[bytes, str]:
    """Read a token file: names by the digests of their tokens."""
    names: dict[bytes, str] = {}
    lines: dict[bytes, int] = {}
    content = watched_file.read(path, "token file", secret=True)
    for number, line in enumerate(content.split(b"\n"), start=1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        name, token = _parse(words, f"{path}, line {number}")
        digest = sha256(token.encode("ascii")).digest()
        if digest in names:
            raise StartError(f"{path}, line {number}: the same token as in line {lines[digest]}")
        names[digest], lines[digest] = name, number
    if not names:
        raise StartError(f"{path} holds no token", hint=LINE_HINT)
    return names


def _parse(words: list[bytes], where: str) -> tuple[str, str]:
    try:
        texts = [word.decode() for word in words]
    except UnicodeDecodeError:
        raise StartError(f"{where}: not UTF-8") from None
    if len(texts) != 2:
        raise StartError(f"{where}: {len(texts)} words instead of two", hint=LINE_HINT)
    name, token = texts
    if not NAME.fullmatch(name):
        raise StartError(f"{where}: the name does not match {NAME.pattern}", hint=LINE_HINT)
    if not TOKEN.fullmatch(token):
        raise StartError(
            f"{where}: the token is not 16 or more visible ASCII characters", hint=LINE_HINT
        )
    return name, token
