"""The base of the errors that users see, and the errors of this package."""

from __future__ import annotations


class StipError(Exception):
    """An error that a user can cause. `hint`, if there is one, says what to do about it."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class BundleError(StipError):
    """A bundle is incomplete, damaged, altered or of another kind."""


class PublicKeyError(StipError):
    """A public key file is missing, damaged or something else."""
