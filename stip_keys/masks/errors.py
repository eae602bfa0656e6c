"""Errors and warnings of keys and masks: those that a client can meet."""

from __future__ import annotations

from stip_model.errors import StipError


class KeysError(StipError):
    """Base of the errors of stip_keys. Errors in bundles are stip_model.errors.BundleError."""


class KeyFileError(KeysError):
    """A key file is missing, damaged, of another kind, or already there."""


class PassphraseError(KeysError):
    """A passphrase is wrong, empty, or cannot be read."""


class KeyFilePermissionWarning(UserWarning):
    """A key file can be read by others than its owner."""


class NotSecretWarning(UserWarning):
    """A master key was made from a base seed: anyone can make it."""
