"""Connections written by hand: HTTP/2 frames as no gRPC client would send them.

Frames are those of RFC 9113; header fields are literals without indexing (RFC 7541, 6.2.2).
"""

from __future__ import annotations

from random import Random

from stip.v1.manifest_pb2 import Manifest
from tests.support.wire.fuzzer import ROWS
from tests.support.wire.requests import INFER, open_request, step_request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
INFO = "/stip.v1.InferenceService/GetModelInfo"
PATHS = (
    INFER,
    INFO,
    "/stip.v1.InferenceService/Nothing",
    "/grpc.health.v1.Health/Check",
    "/",
    "*",
    "",
    "/" + "a" * 100,
    "/stip.v1.InferenceService/Infer/../Infer",
)
CONTENT_TYPES = ("application/grpc", "application/grpc+json", "text/html", "")


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def fields(*pairs: tuple[str, str]) -> bytes:
    """A block of header fields, each name and value shorter than 127 bytes."""
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in pairs
    )


def message(content: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A message behind gRPC's prefix."""
    length = len(content) if length is None else length
    return bytes((compressed,)) + length.to_bytes(4, "big") + content


# A whole connection whose only call has a path that is not UTF-8.
PATH_NOT_UTF8 = (
    PREFACE
    + frame(SETTINGS)
    + frame(
        HEADERS,
        fields((":method", "POST"), (":scheme", "http"), (":authority", "localhost"))
        + b"\0\x05:path\x03/a\xdc"
        + fields(("te", "trailers"), ("content-type", "application/grpc")),
        flags=END_HEADERS,
        stream=1,
    )
)


def never_reading(path: str, *messages: bytes) -> bytes:
    """What a client sends that calls a method and then has no room for a single byte of answer."""
    headers = fields(
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
    )
    no_window = (4).to_bytes(2, "big") + bytes(4)  # SETTINGS_INITIAL_WINDOW_SIZE
    return b"".join(
        (
            PREFACE,
            frame(SETTINGS, no_window),
            frame(HEADERS, headers, flags=END_HEADERS, stream=1),
            *(frame(DATA, message(each), stream=1) for each in messages),
        )
    )


class FrameFuzzer:
    """Draws whole connections, as the bytes that the client sends."""

    def __init__(self, seed: str, manifest: Manifest) -> None:
        self._random = Random(seed)
        opening = open_request(manifest, max_length=16).SerializeToString()
        self._contents = [opening, step_request(0, ROWS).SerializeToString()]

    def connection(self) -> bytes:
        """A call with something wrong: in its header, its messages, its frames or its bytes."""
        frames = [frame(SETTINGS), self._headers(), *self._messages()]
        wrong = self._random.choice((self._reorder, self._insert, self._alter, lambda each: each))
        content = PREFACE + b"".join(wrong(frames))
        if self._random.random() < 0.2:
            content = content[: self._random.randrange(len(content))]
        return content

    def _headers(self) -> bytes:
        draw = self._random
        pairs = [
            (":method", draw.choice(("POST", "POST", "POST", "GET", "PUT", ""))),
            (":scheme", "http"),
            (":path", draw.choice((*[INFER] * 6, *PATHS))),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", draw.choice((*[CONTENT_TYPES[0]] * 6, *CONTENT_TYPES))),
        ]
        pairs += draw.choice(
            (
                [],
                [],
                [("grpc-encoding", draw.choice(("gzip", "none", "\x7f")))],
                [("grpc-timeout", draw.choice(("1n", "99999999H", "-1S", "x")))],
                [("authorization", "Bearer " + "t" * 60)],
                [("grpc-metadata-bin", "!" * draw.choice((0, 3, 100)))] * 40,
            )
        )
        return frame(HEADERS, fields(*pairs), flags=END_HEADERS, stream=1)

    def _messages(self) -> list[bytes]:
        """The open request and a step, framed in one of many wrong ways, or the right one."""
        draw = self._random
        prefixes = (
            {},
            {},
            {"compressed": 1},
            {"compressed": draw.randrange(256)},
            {"length": draw.choice((0, 1, 2**31, 2**32 - 1))},
        )
        body = b"".join(message(each, **draw.choice(prefixes)) for each in self._contents)
        cut = draw.randrange(len(body))
        flags = draw.choice((0, 0, END_STREAM))
        return [
            frame(DATA, body[:cut], stream=1),
            frame(DATA, body[cut:], stream=draw.choice((1, 1, 1, 0, 2, 3)), flags=flags),
        ]

    def _reorder(self, frames: list[bytes]) -> list[bytes]:
        return self._random.sample(frames, self._random.randint(1, len(frames)))

    def _insert(self, frames: list[bytes]) -> list[bytes]:
        """Frames of other kinds, of odd lengths, on odd streams."""
        draw = self._random
        for _ in range(draw.randint(1, 5)):
            kind = draw.choice(
                (RESET, SETTINGS, PING, GO_AWAY, WINDOW_UPDATE, CONTINUATION, draw.randrange(256))
            )
            odd = frame(
                kind,
                draw.randbytes(draw.choice((0, 4, 5, 8, 100))),
                flags=draw.randrange(256),
                stream=draw.choice((0, 1, 2, 3, 2**31 - 1, 2**32 - 1)),
            )
            frames.insert(draw.randint(0, len(frames)), odd)
        return frames

    def _alter(self, frames: list[bytes]) -> list[bytes]:
        altered = bytearray(b"".join(frames))
        for _ in range(self._random.randint(1, 10)):
            altered[self._random.randrange(len(altered))] = self._random.randrange(256)
        return [bytes(altered)]
