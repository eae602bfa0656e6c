"""SPEC.md's key derivation, masks and answers, written from its text with the standard library.

It shares no code with the product. `python -m tests.vectors.reference` makes the vectors next to
it, and the product is tested against them. protobuf_bytes.py makes the wire bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MASTER = bytes(range(32))


def subkey(master: bytes, label: str) -> bytes:
    return hmac.new(master, b"stip/v1/" + label.encode() + b"\x01", hashlib.sha256).digest()


def permutation(key: bytes, n: int) -> list[int]:
    words = struct.unpack(f"<{n}Q", hashlib.shake_256(key).digest(8 * n))
    return sorted(range(n), key=lambda index: (words[index], index))


def quarter_turns(key: bytes, n: int) -> list[int]:
    return [byte % 4 for byte in hashlib.shake_256(key).digest(n)]


def signs(key: bytes, n: int) -> list[bool]:
    return [byte % 2 == 1 for byte in hashlib.shake_256(key).digest(n)]


def angles(key: bytes, n: int) -> list[float]:
    words = struct.unpack(f"<{n}Q", hashlib.shake_256(key).digest(8 * n))
    return [word * 2 * math.pi / 2**64 for word in words]


def mix(row: list[float]) -> list[float]:
    mixed: list[float] = []
    for power in reversed(range(len(row).bit_length())):
        size = 2**power
        if len(row) & size:
            block = row[len(mixed) : len(mixed) + size]
            mixed += [
                sum(b * (-1) ** bin(i & j).count("1") for j, b in enumerate(block)) / size**0.5
                for i in range(size)
            ]
    return mixed


def rotated(key: bytes, row: list[float]) -> list[float]:
    n = len(row)
    for number in range(3):
        order = permutation(subkey(key, f"round/{number}/permutation"), n)
        negate = signs(subkey(key, f"round/{number}/signs"), n)
        row = mix([-row[k] if minus else row[k] for k, minus in zip(order, negate, strict=True)])
    return row


def turned_back(key: bytes, row: list[float]) -> list[float]:
    """`row` times the transpose of the rotation, which is written out as a matrix."""
    n = len(row)
    matrix = [rotated(key, [float(i == k) for k in range(n)]) for i in range(n)]
    return [sum(y * q for y, q in zip(row, line, strict=True)) for line in matrix]


def input_permutation(subkeys: list[bytes], hidden_size: int) -> list[int]:
    size = hidden_size // len(subkeys)
    return [
        block * size + index
        for block, key in enumerate(subkeys)
        for index in permutation(key, size)
    ]


def key_id(scheme: str, hidden_size: int, subkeys: dict[str, str]) -> str:
    text = f"stip-client-key/1\n{scheme}\n{hidden_size}\n"
    # the input's, then those of the last layer's output, then the vocabulary's, as they are given
    text += "".join(f"{label} {key}\n" for label, key in subkeys.items())
    return hashlib.sha256(text.encode()).hexdigest()[:32]


DERIVED: dict[str, Callable[[bytes, int], list[Any]]] = {
    "permutation": permutation,
    "quarter_turns": quarter_turns,
    "signs": signs,
    "angles": angles,
}


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
            ("vocabulary", "permutation", 19),
            ("layer/12/mlp/signs", "signs", 31),
            ("layer/12/turns/0", "angles", 8),
        ):
            key = subkey(master, label)
            values = DERIVED[kind](key, n)
            cases.append(
                {
                    "name": f"{name} {label} {kind}",
                    "master": master.hex(),
                    "label": label,
                    "subkey": key.hex(),
                    "kind": kind,
                    "n": n,
                    "values": values,
                }
            )
    return cases


def key_file(scheme: str, subkeys: dict[str, str], hidden_size: int = 12) -> dict[str, object]:
    """A client key file; `subkeys` in the order of the key_id."""
    return {
        "format": "stip-client-key",
        "version": 1,
        "scheme": scheme,
        "key_id": key_id(scheme, hidden_size, subkeys),
        "hidden_size": hidden_size,
        "subkeys": subkeys,
    }


def block_subkeys(layer: int, count: int) -> dict[str, str]:
    """The subkeys of a layer's blocks, in numeric order."""
    labels = [f"residual/{layer}/block/{b}" for b in range(count)]
    return {label: subkey(MASTER, label).hex() for label in labels}


def client_key_vectors() -> list[dict[str, object]]:
    """Whole client key files: good ones with their permutations, bad ones with the failure."""
    master = MASTER
    named, last = block_subkeys(0, 3), block_subkeys(5, 3)
    eleven = block_subkeys(0, 11)
    first = "residual/0/block/0"
    sealed = {"vocabulary": subkey(master, "vocabulary").hex()}
    turn = {"rotation": subkey(master, "rotation").hex()}
    good, plain = key_file("permutation", named), key_file("none", {})
    p_5 = input_permutation([bytes.fromhex(each) for each in last.values()], 12)
    v = permutation(bytes.fromhex(sealed["vocabulary"]), 19)
    order = input_permutation([bytes.fromhex(each) for each in named.values()], 12)
    upper_case_id = good | {"key_id": str(good["key_id"]).upper()}
    return [
        {"name": "three blocks", "file": good, "expect": "ok", "p_0": order},
        {"name": "scheme none", "file": plain, "expect": "ok", "p_0": list(range(12))},
        {
            "name": "head at the client",
            "file": key_file("permutation", named | last),
            "expect": "ok",
            "p_0": order,
            "p_5": p_5,
        },
        {
            "name": "sealed vocabulary",
            "file": key_file("permutation", named | sealed),
            "expect": "ok",
            "p_0": order,
            "v": v,
        },
        {"name": "rotation", "file": key_file("rotation", turn), "expect": "ok"},
        {"name": "sealed", "file": key_file("rotation", turn | sealed), "expect": "ok", "v": v},
        {
            "name": "no rotation",
            "file": key_file("rotation", sealed),
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "a rotation and blocks",
            "file": key_file("rotation", turn | named),
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "output alone",
            "file": key_file("permutation", last),
            "expect": "bad",
            "why": "input",
        },
        {
            "name": "vocabulary alone",
            "file": key_file("permutation", sealed),
            "expect": "bad",
            "why": "input",
        },
        {
            "name": "two outputs",
            "file": key_file("permutation", named | last | {"residual/6/block/0": "00" * 32}),
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "another place",
            "file": key_file("permutation", named | {"layer/0/mlp": "00" * 32}),
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "output before input",
            "file": good | {"key_id": key_id("permutation", 12, last | named)},
            "expect": "bad",
            "why": "key_id",
        },
        {
            "name": "other format",
            "file": good | {"format": "stip-master-key"},
            "expect": "bad",
            "why": "format",
        },
        {"name": "later version", "file": good | {"version": 2}, "expect": "bad", "why": "version"},
        {
            "name": "altered key_id",
            "file": good | {"key_id": "0" * 32},
            "expect": "bad",
            "why": "key_id",
        },
        {
            "name": "blocks do not divide",
            "file": good | {"hidden_size": 13},
            "expect": "bad",
            "why": "blocks",
        },
        {
            "name": "subkeys without scheme",
            "file": good | {"scheme": "none"},
            "expect": "bad",
            "why": "scheme",
        },
        {
            "name": "unknown scheme",
            "file": good | {"scheme": "other"},
            "expect": "bad",
            "why": "scheme",
        },
        {
            "name": "eleven blocks, whose members are sorted as text",
            "file": key_file("permutation", eleven, 22)
            | {"subkeys": {label: eleven[label] for label in sorted(eleven)}},
            "expect": "ok",
            "p_0": input_permutation([bytes.fromhex(each) for each in eleven.values()], 22),
        },
        {
            "name": "eleven blocks, whose key_id takes them as sorted text",
            "file": key_file("permutation", {label: eleven[label] for label in sorted(eleven)}, 22),
            "expect": "bad",
            "why": "key_id",
        },
        {
            "name": "a last layer of other blocks than the first",
            "file": key_file("permutation", named | block_subkeys(5, 2)),
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "a block is missing",
            "file": key_file(
                "permutation", {k: each for k, each in named.items() if k != "residual/0/block/1"}
            ),
            "expect": "bad",
            "why": "damaged",
        },
        *(
            {
                "name": f"a subkey {what}",
                "file": key_file("permutation", named | {first: text}),
                "expect": "bad",
                "why": "damaged",
            }
            for what, text in (
                ("of 63 digits", named[first][:-1]),
                ("of 62 digits", named[first][:-2]),
                ("of 66 digits", named[first] + "00"),
                ("in upper case", named[first].upper()),
                ("with a space", f"{named[first][:2]} {named[first][2:]}"),
                ("that is no text", 0),
            )
        ),
        {"name": "upper-case key_id", "file": upper_case_id, "expect": "bad", "why": "key_id"},
        {"name": "unknown member", "file": good | {"note": 1}, "expect": "ok", "p_0": order},
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


def rotation_vectors() -> list[dict[str, object]]:
    """Rows of several widths, and what rotations make of them."""
    cases: list[dict[str, object]] = []
    for n in (12, 7, 1):
        key, row = subkey(MASTER, f"layer/{n}/value/0"), [0.5 * index - 1.25 for index in range(n)]
        cases.append({"subkey": key.hex(), "row": row, "rotated": rotated(key, row)})
    return cases


def final_state_vectors() -> list[dict[str, object]]:
    """Final hidden states in p_5 and under the rotation, and the logits that they stand for."""
    width, vocab_size = 12, 5
    state = [(-1) ** k * (0.25 + k / 16) for k in range(width)]
    norm = [0.5 + k / 8 for k in range(width)]
    head = [[((5 * t + 3 * k) % 11 - 5) / 8 for k in range(width)] for t in range(vocab_size)]
    logits = [sum(x * g * w for x, g, w in zip(state, norm, row, strict=True)) for row in head]
    by_name = {case["name"]: case for case in client_key_vectors()}
    p_5 = by_name["head at the client"]["p_5"]
    assert isinstance(p_5, list)
    key = subkey(MASTER, "rotation")
    turned = rotated(key, state)
    assert all(math.isclose(a, b) for a, b in zip(turned_back(key, turned), state, strict=True))
    common = {"norm": norm, "lm_head": head, "logits": logits}
    return [
        {
            "client_key": "head at the client",
            "hidden_states": [state[index] for index in p_5],
            **common,
        },
        {"client_key": "rotation", "hidden_states": turned, **common},
    ]


def sealed_row_vector() -> dict[str, object]:
    """Logits that come in sealed order, whole and the largest three, and what they are."""
    logits = [((7 * token) % 19) / 4 for token in range(19)]
    v = permutation(subkey(MASTER, "vocabulary"), 19)
    sealed = [logits[token] for token in v]
    largest = sorted(range(19), key=lambda k: -sealed[k])[:3]
    return {
        "client_key": "sealed vocabulary",
        "sealed": sealed,
        "logits": logits,
        "sealed_indices": largest,
        "tokens": [v[k] for k in largest],
    }


def rounded(value: float, dtype: str) -> str | None:
    """A float32 value in a wire type, rounded to nearest and ties to even: little-endian
    hexadecimal; None where a finite value becomes infinite."""
    if dtype == "float16":
        try:
            return struct.pack("<e", value).hex()
        except OverflowError:
            return None
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    bits += 0x7FFF + (bits >> 16 & 1)
    high = bits >> 16
    return None if high & 0x7F80 == 0x7F80 else struct.pack("<H", high).hex()


def conversion_vectors() -> list[dict[str, object]]:
    """float32 values on their way to the wire: ties, subnormals, overflow, signed zero."""
    cases: list[dict[str, object]] = []
    for name, value in (
        ("one", 1.0),
        ("minus zero", -0.0),
        ("tie to even, down, float16", 1 + 2**-11),
        ("tie to even, up, float16", 1 + 3 * 2**-11),
        ("above a tie, float16", 1 + 2**-11 + 2**-20),
        ("below a tie, float16", 1 + 2**-11 - 2**-20),
        ("tie to even, down, bfloat16", 1 + 2**-8),
        ("tie to even, up, bfloat16", 1 + 3 * 2**-8),
        ("negative tie", -(1 + 3 * 2**-8)),
        ("largest float16", 65504.0),
        ("rounds down to the largest float16", 65519.0),
        ("tie at the largest float16, overflows", 65520.0),
        ("beyond float16", 70000.0),
        ("smallest normal float16", 2.0**-14),
        ("subnormal float16", 3 * 2.0**-24),
        ("smallest subnormal float16", 2.0**-24),
        ("tie to the smallest subnormal, rounds to zero", 2.0**-25),
        ("above that tie", 2.0**-25 * (1 + 2**-20)),
        ("subnormal float32", 2.0**-140),
        ("smallest subnormal float32", 2.0**-149),
        ("largest float32, overflows bfloat16", struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]),
        ("largest bfloat16", struct.unpack("<f", b"\x00\x00\x7f\x7f")[0]),
    ):
        case: dict[str, object] = {"name": name, "float32": struct.pack("<f", value).hex()}
        for dtype in ("float16", "bfloat16"):
            found = rounded(value, dtype)
            case[dtype] = {"expect": "bad"} if found is None else {"expect": "ok", "bytes": found}
        cases.append(case)
    return cases


def main() -> None:
    """Write the vector files."""
    for name, content in (
        ("derivation", derivation_vectors()),
        ("client_keys", client_key_vectors()),
        ("masked_row", masked_row_vector()),
        ("rotations", rotation_vectors()),
        ("final_states", final_state_vectors()),
        ("sealed_row", sealed_row_vector()),
        ("conversions", conversion_vectors()),
    ):
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
