"""SPEC.md's signatures and wrapped keys, written from its text; shares no code with the product.

Ed25519 and AES-GCM are `cryptography`'s, everything else is the standard library's. The vectors
are made by `python -m tests.vectors.signed_and_wrapped`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.vectors.reference import FOLDER, subkey

Json = dict[str, Any]
# RFC 8032, section 7.1, tests 1 and 2
SIGNER = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
OTHER = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
MANIFEST = '{\n  "format_version": 1\n}\n'


def public_key(private: bytes) -> Json:
    raw = Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return {"format": "stip-public-key", "version": 1, "key": raw.hex()}


def public_fingerprint(private: bytes) -> str:
    text = f"stip-public-key/1\n{public_key(private)['key']}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def signature(private: bytes, manifest: str, prefix: str = "stip-signature/1\n") -> Json:
    signed = Ed25519PrivateKey.from_private_bytes(private).sign((prefix + manifest).encode())
    key = public_key(private)["key"]
    return {"format": "stip-signature", "version": 1, "key": key, "signature": signed.hex()}


def signature_vectors() -> list[Json]:
    good = signature(SIGNER, MANIFEST)
    base = {
        "public_key": public_key(SIGNER),
        "fingerprint": public_fingerprint(SIGNER),
        "manifest": MANIFEST,
        "signature": good,
    }
    flipped = f"{int(good['signature'], 16) ^ 1:0128x}"
    signatures = {
        "other signer": (signature(OTHER, MANIFEST), "signed by"),
        "other signer's signature": (
            good | {"signature": signature(OTHER, MANIFEST)["signature"]},
            "altered",
        ),
        "no prefix": (signature(SIGNER, MANIFEST, prefix=""), "altered"),
        "one bit": (good | {"signature": flipped}, "altered"),
        "truncated": (good | {"signature": good["signature"][:-2]}, "damaged"),
        "upper case": (good | {"signature": good["signature"].upper()}, "damaged"),
        "upper case key": (good | {"key": good["key"].upper()}, "damaged"),
        "space": (good | {"signature": spaced(good["signature"])}, "damaged"),
        "no signature": ({k: v for k, v in good.items() if k != "signature"}, "damaged"),
        "other format": (good | {"format": "stip-public-key"}, "stip-signature"),
        "later version": (good | {"version": 2}, "version"),
    }
    return [
        base | {"name": "good", "expect": "ok"},
        base
        | {"name": "other manifest", "manifest": MANIFEST + " ", "expect": "bad", "why": "altered"},
        *(
            base | {"name": name, "signature": file, "expect": "bad", "why": why}
            for name, (file, why) in signatures.items()
        ),
    ]


def spaced(hexadecimal: str) -> str:
    return f"{hexadecimal[:2]} {hexadecimal[2:]}"


def header(file: Json) -> str:
    scrypt = file["scrypt"]
    return (
        f"{file['format']}/1\n{file['created']}\n{'secret' if file['secret'] else 'not secret'}\n"
        f"{file['fingerprint']}\n{scrypt['n']} {scrypt['r']} {scrypt['p']} {scrypt['salt']}\n"
    )


def with_checksum(file: Json) -> Json:
    text = header(file) + f"{file['nonce']}\n{file['ciphertext']}\n"
    return file | {"checksum": hashlib.sha256(text.encode()).hexdigest()}


def wrapped(kind: str, key: bytes, passphrase: str, *, secret: bool, n: int = 1024) -> Json:
    """A wrapped key file; n is small where no more than the format is to be tested."""
    master = kind == "stip-wrapped-master-key"
    file: Json = {
        "format": kind,
        "version": 1,
        "created": "2026-11-23T20:40:00Z",
        "secret": secret,
        "fingerprint": subkey(key, "fingerprint")[:16].hex() if master else public_fingerprint(key),
        "scrypt": {"n": n, "r": 8, "p": 1, "salt": bytes(range(16)).hex()},
        "nonce": bytes(range(12)).hex(),
    }
    wrapping_key = hashlib.scrypt(
        passphrase.encode(), salt=bytes(range(16)), n=n, r=8, p=1, maxmem=1 << 28, dklen=32
    )
    sealed = AESGCM(wrapping_key).encrypt(bytes(range(12)), key, header(file).encode())
    return with_checksum(file | {"ciphertext": sealed.hex()})


def flipped(hexadecimal: str) -> str:
    return f"{int(hexadecimal[0], 16) ^ 1:x}{hexadecimal[1:]}"


def wrapped_key_vectors() -> list[Json]:
    """Whole wrapped key files: good ones with the key, bad ones with a word for what is wrong."""
    key, passphrase = bytes(range(32)), "Lösung 42"
    good = wrapped("stip-wrapped-master-key", key, passphrase, secret=True)

    def scrypt(**changes: object) -> Json:
        return with_checksum(good | {"scrypt": good["scrypt"] | changes})

    signing = wrapped("stip-wrapped-signing-key", SIGNER, passphrase, secret=True)
    public = wrapped("stip-wrapped-master-key", key, passphrase, secret=False)
    default = wrapped("stip-wrapped-master-key", key, passphrase, secret=True, n=1 << 17)
    cases: list[Json] = [
        {"name": "master key", "file": good, "expect": "ok", "key": key.hex()},
        {"name": "not a secret", "file": public, "expect": "ok", "key": key.hex()},
        {"name": "signing key", "file": signing, "expect": "ok", "key": SIGNER.hex()},
        {"name": "default cost", "file": default, "expect": "ok", "key": key.hex()},
        {"name": "unknown member", "file": good | {"note": "x"}, "expect": "ok", "key": key.hex()},
        {
            "name": "other passphrase",
            "file": good,
            "passphrase": "other",
            "expect": "bad",
            "why": "wrong",
        },
        {"name": "later version", "file": good | {"version": 2}, "expect": "bad", "why": "version"},
        {
            "name": "no checksum",
            "file": good | {"checksum": None},
            "expect": "bad",
            "why": "damaged",
        },
        {
            "name": "n is no power of two",
            "file": scrypt(n=1000),
            "expect": "bad",
            "why": "power of two",
        },
        {"name": "n is 1", "file": scrypt(n=1), "expect": "bad", "why": "power of two"},
        {
            "name": "n is not below 2^(16 r)",
            "file": scrypt(n=1 << 16, r=1),
            "expect": "bad",
            "why": "2^(16 r)",
        },
        {"name": "r is 0", "file": scrypt(r=0), "expect": "bad", "why": "positive"},
        {"name": "p is negative", "file": scrypt(p=-1), "expect": "bad", "why": "positive"},
        {"name": "n is a fraction", "file": scrypt(n=1024.0), "expect": "bad", "why": "damaged"},
        {"name": "2 GiB of memory", "file": scrypt(n=1 << 21), "expect": "bad", "why": "allowed"},
        {
            "name": "2 GiB in turns",
            "file": scrypt(n=1 << 17, p=16),
            "expect": "bad",
            "why": "allowed",
        },
        # the checksum is right, so it is an alteration that only GCM finds
        {
            "name": "a passphrase that does not open an altered header",
            "file": with_checksum(good | {"secret": False}),
            "expect": "bad",
            "why": "wrong",
        },
    ]
    for name, value in (
        ("created", "2026-11-23T20:40:00Z\nsecret"),
        ("secret", 1),
        ("scrypt", good["scrypt"] | {"salt": "00" * 15}),
        ("nonce", "00" * 13),
        ("ciphertext", good["ciphertext"][2:]),
    ):
        case = {"name": f"{name} of no form", "file": with_checksum(good | {name: value})}
        cases.append(case | {"expect": "bad", "why": "malformed"})
    # with the checksum of the lower-case digits, which stand for the same bytes
    salt = bytes(range(0xA0, 0xB0)).hex()
    letters = with_checksum(good | {"scrypt": good["scrypt"] | {"salt": salt}, "nonce": salt[:24]})
    for case_of, write in (("upper-case", str.upper), ("spaced", spaced)):
        for name in ("fingerprint", "nonce", "ciphertext"):
            file = letters | {name: write(letters[name])}
            cases.append(
                {"name": f"{case_of} {name}", "file": file, "expect": "bad", "why": "malformed"}
            )
        file = letters | {"scrypt": letters["scrypt"] | {"salt": write(salt)}}
        cases.append({"name": f"{case_of} salt", "file": file, "expect": "bad", "why": "malformed"})
    for name in ("fingerprint", "nonce", "ciphertext", "checksum"):
        file = good | {name: flipped(good[name])}
        cases.append({"name": f"flipped {name}", "file": file, "expect": "bad", "why": "damaged"})
    for name, value in (
        ("created", "2026-11-23T20:40:01Z"),
        ("secret", False),
        ("scrypt", good["scrypt"] | {"n": 2048}),
        ("scrypt", good["scrypt"] | {"r": 4}),
        ("scrypt", good["scrypt"] | {"p": 2}),
        ("scrypt", good["scrypt"] | {"salt": flipped(good["scrypt"]["salt"])}),
    ):
        file = good | {name: value}
        cases.append(
            {"name": f"altered {name} {value}", "file": file, "expect": "bad", "why": "damaged"}
        )
    return [{"passphrase": passphrase} | case for case in cases]


def main() -> None:
    """Write the vector files."""
    for name, content in (
        ("signatures", signature_vectors()),
        ("wrapped_keys", wrapped_key_vectors()),
    ):
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
