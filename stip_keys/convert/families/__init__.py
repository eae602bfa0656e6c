"""The supported model types, one module each, found by their presence in this folder.

A new model type is a new module here that defines ARCHITECTURE; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families.family import Architecture


@cache
def architectures() -> dict[str, Architecture]:
    """Every supported architecture by its model_type."""
    found: dict[str, Architecture] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name != "family":
            module = importlib.import_module(f"{__name__}.{module_info.name}")
            found[module.ARCHITECTURE.model_type] = module.ARCHITECTURE
    return found


def architecture(model_type: str) -> Architecture:
    """The architecture of a model_type. Raises CheckpointError for an unsupported one."""
    try:
        return architectures()[model_type]
    except KeyError:
        supported = ", ".join(sorted(architectures()))
        raise CheckpointError(
            f"model type {model_type!r} is not supported (supported: {supported})"
        ) from None
