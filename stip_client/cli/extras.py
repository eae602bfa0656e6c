"""Checks for the extras that some commands need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from stip_client.errors import ClientError


class ExtraMissingError(ClientError):
    """The packages of an extra are not installed."""


def require(extra: str, packages: Sequence[str], what: str) -> None:
    """Check for an extra's packages without importing them. Raises ExtraMissingError."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ExtraMissingError(
            f"{what} needs {' and '.join(missing)}, which is not installed",
            hint=f'pip install ".[{extra}]" in the folder of this project',
        )
