"""The wire bytes of messages, written from the .proto files without a protobuf library.

`python -m tests.vectors.protobuf_bytes` writes messages.json: each message as protobuf-JSON and as
the bytes that a serializer writes when it orders fields by number and omits default values.
"""

from __future__ import annotations

import base64
import json
import struct

from tests.vectors.reference import FOLDER, MASTER, key_id, subkey

KEY_ID = key_id("rotation", 12, {"rotation": subkey(MASTER, "rotation").hex()})
BUNDLE_ID = bytes(range(32)).hex()
SESSION_ID = bytes(range(16))


def varint(value: int) -> bytes:
    low = value & 0x7F
    return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + varint(value >> 7)


def number(field: int, value: int) -> bytes:
    """A field of type uint32, uint64, int32 (not negative), bool or an enum."""
    return varint(field << 3) + varint(value) if value else b""


def bytes_of(field: int, value: bytes) -> bytes:
    """A field of type bytes, string or message, or a packed repeated field."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def text(field: int, value: str) -> bytes:
    return bytes_of(field, value.encode()) if value else b""


def tensor(dtype: int, shape: list[int], data: bytes) -> bytes:
    packed = b"".join(map(varint, shape))
    return number(1, dtype) + bytes_of(2, packed) + bytes_of(3, data)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def message_vectors() -> list[dict[str, object]]:
    """An open, a step, a close, a result and an error."""
    opened = text(1, KEY_ID) + text(2, BUNDLE_ID) + number(3, 512) + number(6, 1500) + number(7, 1)
    rows = struct.pack("<4e", 0.5, -1.0, 0.25, 2.0)
    step = number(1, 300) + bytes_of(2, tensor(1, [2, 2], rows))
    step += bytes_of(3, number(1, 2) + number(2, 1) + number(3, 2)) + number(4, 1)
    values, indices = struct.pack("<2e", 7.5, 6.25), struct.pack("<2i", 1000, 3)
    log_sum_exp = struct.pack("<1f", 8.125)
    logits = bytes_of(1, tensor(1, [1, 2], values)) + bytes_of(2, tensor(4, [1, 2], indices))
    logits += bytes_of(3, tensor(3, [1], log_sum_exp))
    result = number(1, 302) + bytes_of(2, logits) + bytes_of(3, number(1, 70000) + number(2, 9))
    result += bytes_of(4, struct.pack("<4f", 0.5, -1.0, 0.25, 2.0))
    return [
        {
            "name": "open",
            "message": "stip.v1.InferRequest",
            "json": {
                "open": {
                    "key_id": KEY_ID,
                    "bundle_id": BUNDLE_ID,
                    "max_length": 512,
                    "wait_millis": 1500,
                    "head": "HEAD_SERVER",
                }
            },
            "bytes": bytes_of(1, opened).hex(),
        },
        {
            "name": "resume",
            "message": "stip.v1.InferRequest",
            "json": {
                "open": {
                    "key_id": KEY_ID,
                    "bundle_id": BUNDLE_ID,
                    "resume_session_id": base64_of(SESSION_ID),
                }
            },
            "bytes": bytes_of(
                1, text(1, KEY_ID) + text(2, BUNDLE_ID) + bytes_of(4, SESSION_ID)
            ).hex(),
        },
        {
            "name": "step",
            "message": "stip.v1.InferRequest",
            "json": {
                "step": {
                    "position": 300,
                    "hidden_states": {
                        "dtype": "DATA_TYPE_FLOAT16",
                        "shape": [2, 2],
                        "data": base64_of(rows),
                    },
                    "logits": {
                        "rows": "LOGITS_ROWS_LAST",
                        "dtype": "DATA_TYPE_FLOAT16",
                        "top_k": 2,
                    },
                    "echo": True,
                }
            },
            "bytes": bytes_of(2, step).hex(),
        },
        {
            "name": "close",
            "message": "stip.v1.InferRequest",
            "json": {"close": {}},
            "bytes": bytes_of(3, b"").hex(),
        },
        {
            "name": "opened",
            "message": "stip.v1.InferResponse",
            "json": {
                "opened": {
                    "session_id": base64_of(SESSION_ID),
                    "length": 5,
                    "max_length": 512,
                    "limits": {"max_sessions": 64, "kv_bytes": "1048576"},
                }
            },
            "bytes": bytes_of(
                1,
                bytes_of(1, SESSION_ID)
                + number(2, 5)
                + number(3, 512)
                + bytes_of(4, number(1, 64) + number(10, 1 << 20)),
            ).hex(),
        },
        {
            "name": "result",
            "message": "stip.v1.InferResponse",
            "json": {
                "result": {
                    "length": 302,
                    "logits": {
                        "values": {
                            "dtype": "DATA_TYPE_FLOAT16",
                            "shape": [1, 2],
                            "data": base64_of(values),
                        },
                        "indices": {
                            "dtype": "DATA_TYPE_INT32",
                            "shape": [1, 2],
                            "data": base64_of(indices),
                        },
                        "log_sum_exp": {
                            "dtype": "DATA_TYPE_FLOAT32",
                            "shape": [1],
                            "data": base64_of(log_sum_exp),
                        },
                    },
                    "timings": {"queue_nanos": "70000", "compute_nanos": "9"},
                    "received": [0.5, -1.0, 0.25, 2.0],
                }
            },
            "bytes": bytes_of(2, result).hex(),
        },
        error_vector(),
    ]


def error_vector() -> dict[str, object]:
    """What grpc-status-details-bin holds: google.rpc.Status with three details."""
    message = "position 9 is beyond the session's 5 tokens"
    types = "type.googleapis.com/google.rpc."
    info = text(1, "POSITION_BEYOND_END") + text(2, "stip.v1")
    violation = text(1, "step.position") + text(2, message)
    delay = number(1, 1) + number(2, 500_000_000)
    details = (
        ("ErrorInfo", info),
        ("BadRequest", bytes_of(1, violation)),
        ("RetryInfo", bytes_of(1, delay)),
    )
    packed = number(1, 11) + text(2, message)
    for name, value in details:
        packed += bytes_of(3, text(1, types + name) + bytes_of(2, value))
    return {
        "name": "error",
        "message": "google.rpc.Status",
        "json": {
            "code": 11,
            "message": message,
            "details": [
                {
                    "@type": f"{types}ErrorInfo",
                    "reason": "POSITION_BEYOND_END",
                    "domain": "stip.v1",
                },
                {
                    "@type": f"{types}BadRequest",
                    "fieldViolations": [{"field": "step.position", "description": message}],
                },
                {"@type": f"{types}RetryInfo", "retryDelay": "1.500s"},
            ],
        },
        "bytes": packed.hex(),
    }


def main() -> None:
    """Write the vector file."""
    (FOLDER / "messages.json").write_text(json.dumps(message_vectors(), indent=1) + "\n")


if __name__ == "__main__":
    main()
