"""Key files: created exclusively with mode 0600, never overwritten (SPEC.md, "Key files").

Errors name the file and what is wrong with it, never its content.
"""

from __future__ import annotations

import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stip_keys.masks.derivation import (
    KEY_BYTES,
    ROTATION_LABEL,
    VOCABULARY_LABEL,
    residual_labels,
)
from stip_keys.masks.errors import KeyFileError, NotSecretWarning
from stip_keys.masks.keys import ClientKey, MasterKey
from stip_keys.masks.passphrase import (
    ON_TERMINAL,
    Passphrase,
    PassphraseSource,
    not_wrapped,
    warn_if_others_can_read,
)
from stip_keys.masks.wrapped_key import parse as parse_wrapped
from stip_keys.masks.wrapped_key import wrap, wrapped_format
from stip_model.bundle.hexadecimal import from_hex

MASTER_FORMAT = "stip-master-key"
CLIENT_FORMAT = "stip-client-key"
VERSION = 1
MAX_BYTES = 16 * 1024 * 1024


def write_master_key(
    path: Path,
    key: MasterKey,
    *,
    base_seed: int | None = None,
    passphrase: Passphrase | None = None,
) -> None:
    """Create a master key file, wrapped if there is a passphrase.

    `base_seed` records that anyone can make the same key.
    """
    write_secret(
        path,
        MASTER_FORMAT,
        key.secret,
        key.fingerprint,
        passphrase,
        is_secret=base_seed is None,
    )


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
    create_key_file(path, content)


def read_master_key(path: Path, source: PassphraseSource = ON_TERMINAL) -> MasterKey:
    """Read a master key file; `source` gives the passphrase where it is wrapped.

    Raises KeyFileError and PassphraseError; warns when others can read or make the key.
    """
    secret, is_secret = read_secret(path, MASTER_FORMAT, source)
    warn_unless_secret(path, is_secret=is_secret)
    return MasterKey(secret)


def read_client_key(path: Path) -> ClientKey:
    """Read a client key file. Raises KeyFileError; warns when others can read the file."""
    content = read_key_file(path)
    expect_format(path, content, CLIENT_FORMAT)
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


def write_secret(
    path: Path,
    kind: str,
    secret: bytes,
    fingerprint: str,
    passphrase: Passphrase | None,
    *,
    is_secret: bool = True,
) -> None:
    """Create a key file that holds 32 secret bytes; `kind` is its format where it is plain."""
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if passphrase is not None:
        wrapped = wrap(
            secret,
            passphrase,
            plain=kind,
            created=created,
            is_secret=is_secret,
            fingerprint=fingerprint,
        )
        create_key_file(path, wrapped.content())
        return
    content = {
        "format": kind,
        "version": VERSION,
        "created": created,
        "secret": is_secret,
        "key": secret.hex(),
    }
    create_key_file(path, content)


def read_secret(path: Path, kind: str, source: PassphraseSource) -> tuple[bytes, bool]:
    """The 32 bytes of a key file, plain or wrapped, and whether they are a secret.

    Raises KeyFileError, and PassphraseError also for a passphrase given for a plain file.
    """
    content = read_key_file(path)
    if content.get("format") == wrapped_format(kind):
        expect_format(path, content, wrapped_format(kind))
        wrapped = parse_wrapped(path, content)
        return wrapped.unwrap(path, source.passphrase(path)), wrapped.secret
    expect_format(path, content, kind)
    if source.file is not None:  # its user believes that the key is protected, and it is not
        raise not_wrapped(path, source.option)
    try:
        secret = from_hex(content["key"], KEY_BYTES)
    except (KeyError, TypeError, ValueError):
        raise KeyFileError(
            f"{path}: damaged: its key is not {KEY_BYTES} bytes in lower-case hexadecimal"
        ) from None
    return secret, content.get("secret") is not False


def warn_unless_secret(path: Path, *, is_secret: bool) -> None:
    """Warn with NotSecretWarning of a key that anyone can make."""
    if not is_secret:
        warnings.warn(
            f"the key in {path} was made from a base seed and is not a secret: anyone can make it",
            NotSecretWarning,
            stacklevel=3,
        )


def _client_key(scheme: str, hidden_size: int, subkeys: dict[str, str]) -> ClientKey:
    """The key with these labelled subkeys. Raises KeyError or ValueError for other labels."""
    rest = {label: from_hex(text, KEY_BYTES) for label, text in subkeys.items()}
    vocabulary = rest.pop(VOCABULARY_LABEL, None)
    if scheme == "rotation":
        key = ClientKey(scheme, hidden_size, (rest.pop(ROTATION_LABEL),), vocabulary=vocabulary)
        if rest:
            raise ValueError(min(rest))
        return key
    layers = {int(label.split("/")[1]) for label in rest} - {0}
    if len(layers) > 1 or min(layers, default=1) < 0:
        raise ValueError(f"blocks of layers {sorted(layers)}")
    output_layer = layers.pop() if layers else 0

    def blocks(layer: int) -> tuple[bytes, ...]:
        prefix = f"residual/{layer}/"
        count = sum(label.startswith(prefix) for label in rest)
        return tuple(rest[label] for label in residual_labels(layer, count))

    output = blocks(output_layer) if output_layer else ()
    key = ClientKey(scheme, hidden_size, blocks(0), output, output_layer, vocabulary)
    if set(key.labelled_subkeys()) != set(subkeys) or (output and len(output) != len(key.input)):
        raise ValueError("subkeys of other places")
    return key


def read_key_file(path: Path, *, check_mode: bool = True) -> dict[str, Any]:
    """The JSON object in any key file, with its secrets.

    Warns with KeyFilePermissionWarning when others can read the file, if `check_mode`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read key file {path}: {error.strerror}") from error
    if check_mode:
        warn_if_others_can_read(path, mode)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or len(raw) > MAX_BYTES:
        raise KeyFileError(f"{path} is not a key file: not a JSON object")
    return content


def expect_format(path: Path, content: dict[str, Any], expected: str) -> None:
    """Raise KeyFileError unless the file has the expected format and a known version."""
    found = content.get("format")
    if found != expected:
        raise KeyFileError(f"{path} is not a {expected} file: its format is {found!r}")
    if content.get("version") != VERSION:
        raise KeyFileError(
            f"{path}: version {content.get('version')!r} is not supported (known: {VERSION})"
        )


def create_key_file(path: Path, content: dict[str, Any], mode: int = 0o600) -> None:
    """Write a JSON object into a new file. Raises KeyFileError, also if the file exists."""
    text = json.dumps(content, indent=2) + "\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, mode)
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
