"""Key files: created exclusively with mode 0600, never overwritten (SPEC.md, "Key files").

Errors name the file and what is wrong with it, never its content.
"""

from __future__ import annotations

import json
import os
import stat
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stip_keys.derivation import ROTATION_LABEL, VOCABULARY_LABEL, residual_block_label
from stip_keys.errors import KeyFileError, KeyFilePermissionWarning, NotSecretWarning
from stip_keys.keys import ClientKey, MasterKey

MASTER_FORMAT = "stip-master-key"
CLIENT_FORMAT = "stip-client-key"
VERSION = 1
MAX_BYTES = 16 * 1024 * 1024


def write_master_key(path: Path, key: MasterKey, *, base_seed: int | None = None) -> None:
    """Create a master key file; `base_seed` records that anyone can make the same key."""
    content: dict[str, Any] = {
        "format": MASTER_FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "secret": base_seed is None,
        "key": key.secret.hex(),
    }
    _create(path, content)


def write_client_key(path: Path, key: ClientKey) -> None:
    """Create a client key file, which holds the subkeys a client needs and not the master key."""
    content = {
        "format": CLIENT_FORMAT,
        "version": VERSION,
        "scheme": key.scheme,
        "key_id": key.key_id,
        "hidden_size": key.hidden_size,
        "subkeys": {label: subkey.hex() for label, subkey in key.labelled_subkeys().items()},
    }
    _create(path, content)


def read_master_key(path: Path) -> MasterKey:
    """Read a master key file. Raises KeyFileError; warns when others can read or make the key."""
    content = read_key_file(path)
    _expect_format(path, content, MASTER_FORMAT)
    if content.get("secret") is False:
        warnings.warn(
            f"the key in {path} was made from a base seed and is not a secret: anyone can make it",
            NotSecretWarning,
            stacklevel=2,
        )
    try:
        return MasterKey(bytes.fromhex(content["key"]))
    except (KeyError, TypeError, ValueError):
        raise KeyFileError(f"{path}: damaged: no 32-byte key in it") from None


def read_client_key(path: Path) -> ClientKey:
    """Read a client key file. Raises KeyFileError; warns when others can read the file."""
    content = read_key_file(path)
    _expect_format(path, content, CLIENT_FORMAT)
    try:
        key = _client_key(content["scheme"], int(content["hidden_size"]), content["subkeys"])
        recorded = content["key_id"]
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError):
        raise KeyFileError(f"{path}: damaged: a field is missing or malformed") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: damaged: {error}") from None
    if key.key_id != recorded:
        raise KeyFileError(
            f"{path}: damaged: key_id is {recorded!r}, but its subkeys make {key.key_id!r}"
        )
    return key


def _client_key(scheme: str, hidden_size: int, subkeys: dict[str, str]) -> ClientKey:
    """The key whose labelled subkeys these are; KeyError and ValueError for other labels."""
    rest = {label: bytes.fromhex(text) for label, text in subkeys.items()}
    vocabulary = rest.pop(VOCABULARY_LABEL, None)
    if scheme == "rotation":
        key = ClientKey(scheme, hidden_size, (rest.pop(ROTATION_LABEL),), vocabulary=vocabulary)
        if rest:
            raise ValueError(min(rest))
        return key
    layers = {int(label.split("/")[1]) for label in rest} - {0}
    if len(layers) > 1:
        raise ValueError(f"blocks of layers {sorted(layers)}")
    output_layer = layers.pop() if layers else 0

    def blocks(layer: int) -> tuple[bytes, ...]:
        prefix = f"residual/{layer}/"
        count = sum(label.startswith(prefix) for label in rest)
        return tuple(rest[residual_block_label(layer, block)] for block in range(count))

    output = blocks(output_layer) if output_layer else ()
    key = ClientKey(scheme, hidden_size, blocks(0), output, output_layer, vocabulary)
    if set(key.labelled_subkeys()) != set(subkeys):
        raise ValueError("subkeys of other places")
    return key


def read_key_file(path: Path, *, check_mode: bool = True) -> dict[str, Any]:
    """The JSON object in a key file of either kind, its secrets included.

    Warns with KeyFilePermissionWarning when others can read the file, unless told not to check.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error.strerror}") from error
    if check_mode and os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        warnings.warn(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}",
            KeyFilePermissionWarning,
            stacklevel=3,
        )
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or len(raw) > MAX_BYTES:
        raise KeyFileError(f"{path} is not a key file: not a JSON object")
    return content


def _expect_format(path: Path, content: dict[str, Any], expected: str) -> None:
    found = content.get("format")
    if found != expected:
        raise KeyFileError(f"{path} is not a {expected} file: its format is {found!r}")
    if content.get("version") != VERSION:
        raise KeyFileError(
            f"{path}: version {content.get('version')!r} is not supported (known: {VERSION})"
        )


def _create(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise KeyFileError(
            f"{path} already exists",
            hint="key files are never overwritten: choose another name, or move the old file away",
        ) from None
    except OSError as error:
        raise KeyFileError(f"cannot create {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error
