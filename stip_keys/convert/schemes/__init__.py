"""The schemes, one module each. The module's name is the scheme's name.

A new scheme is a new module here that defines MASKING, a subclass of Masking.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stip.v1.manifest_pb2 import Manifest, ModelConfig
from stip_keys.convert.schemes.masking import Masking
from stip_keys.masks.keys import MasterKey
from stip_model.bundle.modes import head_name, scheme_name


def mask(
    scheme: str,
    config: ModelConfig,
    key: MasterKey | None,
    *,
    head: str = "server",
    blocks: int | None = None,
) -> Masking[Any]:
    """Apply a scheme with `key` to a model; `blocks` None is the scheme's default.

    Raises KeysError for arguments that contradict each other.
    """
    masked: Masking[Any] = _scheme(scheme)(config, key, head, blocks)
    return masked


def mask_again(manifest: Manifest, key: MasterKey) -> Masking[Any]:
    """Apply `key` as the conversion did that wrote `manifest`. Raises KeysError."""
    scheme = scheme_name(manifest.scheme)
    blocks = max(1, manifest.residual_blocks) if _scheme(scheme).has_blocks else None
    return mask(scheme, manifest.model, key, head=head_name(manifest.head), blocks=blocks)


def _scheme(name: str) -> Any:
    return import_module(f"{__name__}.{name}").MASKING
