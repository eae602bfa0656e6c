"""Reads lower-case hexadecimal (SPEC.md, "Conventions").

`bytes.fromhex` accepts upper case and spaces as well. One key could then have many files.
"""

from __future__ import annotations


def from_hex(text: str, size: int) -> bytes:
    """Return the `size` bytes that 2 * `size` lower-case digits stand for.

    Raises ValueError for other text, and TypeError for a value that is no text.
    """
    value = bytes.fromhex(text)
    if len(value) != size or value.hex() != text:
        raise ValueError(f"not {size} bytes in lower-case hexadecimal")
    return value
