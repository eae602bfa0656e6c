"""SPEC.md's key derivation and masking, written from its text with the standard library alone.

It shares no code with the product: the vectors beside it are made by `python -m
tests.vectors.reference`, and the product is tested against them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from pathlib import Path

FOLDER = Path(__file__).parent


def subkey(master: bytes, label: str) -> bytes:
    return hmac.new(master, b"stip/v1/" + label.encode() + b"\x01", hashlib.sha256).digest()


def permutation(key: bytes, n: int) -> list[int]:
    words = struct.unpack(f"<{n}Q", hashlib.shake_256(key).digest(8 * n))
    return sorted(range(n), key=lambda index: (words[index], index))


def quarter_turns(key: bytes, n: int) -> list[int]:
    return [byte % 4 for byte in hashlib.shake_256(key).digest(n)]


def input_permutation(subkeys: list[bytes], hidden_size: int) -> list[int]:
    size = hidden_size // len(subkeys)
    return [
        block * size + index
        for block, key in enumerate(subkeys)
        for index in permutation(key, size)
    ]


def key_id(scheme: str, hidden_size: int, subkeys: dict[str, str]) -> str:
    text = f"stip-client-key/1\n{scheme}\n{hidden_size}\n"
    text += "".join(
        f"residual/0/block/{b} {subkeys[f'residual/0/block/{b}']}\n" for b in range(len(subkeys))
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def derivation_vectors() -> list[dict[str, object]]:
    cases: list[dict[str, object]] = []
    for name, master in (("zero", bytes(32)), ("counting", bytes(range(32)))):
        for label, kind, n in (
            ("residual/0/block/0", "permutation", 8),
            ("residual/3/block/5", "permutation", 17),
            ("layer/12/heads", "permutation", 2),
            ("layer/12/group/1", "permutation", 7),
            ("layer/12/value/1", "permutation", 16),
            ("layer/12/mlp", "permutation", 31),
            ("layer/12/turns/0", "quarter_turns", 16),
            ("layer/0/mlp", "permutation", 1),
        ):
            key = subkey(master, label)
            values = permutation(key, n) if kind == "permutation" else quarter_turns(key, n)
            cases.append(
                {
                    "name": f"{name} {label}",
                    "master": master.hex(),
                    "label": label,
                    "subkey": key.hex(),
                    "kind": kind,
                    "n": n,
                    "values": values,
                }
            )
    return cases


def client_key_vectors() -> list[dict[str, object]]:
    """Whole client key files: good ones with p_0, bad ones with the failure to expect."""
    master = bytes(range(32))
    named = {
        f"residual/0/block/{b}": subkey(master, f"residual/0/block/{b}").hex() for b in range(3)
    }
    good = {
        "format": "stip-client-key",
        "version": 1,
        "scheme": "permutation",
        "key_id": key_id("permutation", 12, named),
        "hidden_size": 12,
        "subkeys": named,
    }
    plain = good | {"scheme": "none", "subkeys": {}, "key_id": key_id("none", 12, {})}
    order = input_permutation([bytes.fromhex(each) for each in named.values()], 12)
    return [
        {"name": "three blocks", "file": good, "expect": "ok", "p_0": order},
        {"name": "scheme none", "file": plain, "expect": "ok", "p_0": list(range(12))},
        {"name": "other format", "file": good | {"format": "stip-master-key"}, "expect": "format"},
        {"name": "later version", "file": good | {"version": 2}, "expect": "version"},
        {"name": "altered key_id", "file": good | {"key_id": "0" * 32}, "expect": "key_id"},
        {"name": "blocks do not divide", "file": good | {"hidden_size": 13}, "expect": "blocks"},
        {"name": "subkeys without scheme", "file": good | {"scheme": "none"}, "expect": "scheme"},
        {"name": "unknown scheme", "file": good | {"scheme": "other"}, "expect": "scheme"},
    ]


def masked_row_vector() -> dict[str, object]:
    """One embedding row through the mask of the first client key, as bytes on the wire."""
    row = [0.5 * index - 2.75 for index in range(12)]
    case = client_key_vectors()[0]
    order = case["p_0"]
    assert isinstance(order, list)
    masked = [row[index] for index in order]
    return {
        "client_key": case["name"],
        "row": row,
        "masked": masked,
        "float16": struct.pack("<12e", *masked).hex(),
        "float32": struct.pack("<12f", *masked).hex(),
    }


def main() -> None:
    """Write the vector files."""
    for name, content in (
        ("derivation", derivation_vectors()),
        ("client_keys", client_key_vectors()),
        ("masked_row", masked_row_vector()),
    ):
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
