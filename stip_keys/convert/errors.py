"""Errors of converting and auditing, which no client can meet."""

from __future__ import annotations

from stip_keys.masks.errors import KeysError


class CheckpointError(KeysError):
    """A Hugging Face checkpoint is incomplete, damaged or of an unsupported kind."""
