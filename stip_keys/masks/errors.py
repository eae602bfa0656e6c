"""What can go wrong in the developer's tools."""

from __future__ import annotations


class KeysError(Exception):
    """Base of every error that a user of stip_keys can cause.

    `hint`, where there is one, says what to do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class KeyFileError(KeysError):
    """A key file is missing, damaged, of another kind, or already there."""


class PassphraseError(KeysError):
    """A passphrase is wrong, empty, or cannot be had."""


class BundleError(KeysError):
    """A bundle is incomplete, damaged, or cannot be written."""


class KeyFilePermissionWarning(UserWarning):
    """A key file can be read by others than its owner."""


class NotSecretWarning(UserWarning):
    """A master key was made from a base seed: anyone can make it."""
