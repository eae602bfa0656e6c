"""Bytes as files hold them: in lower-case hexadecimal and nothing else (SPEC.md, "Conventions").

`bytes.fromhex` takes upper case and spaces as well, with which one key would have many files.
"""

from __future__ import annotations


def from_hex(text: str, size: int) -> bytes:
    """The `size` bytes that 2 * `size` lower-case digits stand for.

    Raises ValueError or TypeError for anything else, which need not be a text.
    """
    value = bytes.fromhex(text)
    if len(value) != size or value.hex() != text:
        raise ValueError(f"not {size} bytes in lower-case hexadecimal")
    return value
