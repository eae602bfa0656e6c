"""Passphrases in files, as scripts give them."""

from __future__ import annotations

from pathlib import Path

from stip_keys.masks.passphrase import PassphraseSource


def in_file(path: Path, words: bytes) -> PassphraseSource:
    """The source that reads a passphrase from a file, which is written."""
    path.touch(mode=0o600)
    path.write_bytes(words + b"\n")
    return PassphraseSource(path)
