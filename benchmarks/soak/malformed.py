"""Requests that the server must refuse, and the statuses that fit each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from grpc import StatusCode

from stip.v1.inference_pb2 import ForkPoint, InferRequest, LogitsRequest, LogitsRows
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from tests.support.wire.requests import open_request, step_request, tensor_of

INVALID = (StatusCode.INVALID_ARGUMENT,)
UNFIT = (StatusCode.FAILED_PRECONDITION,)
BEYOND = (StatusCode.OUT_OF_RANGE,)
GONE = (StatusCode.NOT_FOUND,)


@dataclass(frozen=True)
class Wrong:
    """A request as the first of a stream, or as a later one, and how it may be refused."""

    name: str
    request: InferRequest | bytes
    allowed: Collection[StatusCode]


def wrong_first(manifest: Manifest, max_length: int, random_id: bytes) -> list[Wrong]:
    """Wrong ways to begin a stream. `max_length` is the server's limit."""
    row = np.zeros((1, manifest.model.hidden_size), np.float16)
    unknown = ForkPoint(session_id=random_id)
    return [
        Wrong("another key", open_request(manifest, key_id="0" * 32), UNFIT),
        Wrong("another bundle", open_request(manifest, bundle_id="0" * 64), UNFIT),
        Wrong("a step first", step_request(0, row), UNFIT),
        Wrong("no message first", b"\xff\xff\xff", INVALID),
        Wrong("beyond the limit", open_request(manifest, max_length=max_length + 1), BEYOND),
        Wrong("an unknown session", open_request(manifest, resume_session_id=random_id), GONE),
        Wrong("a fork of an unknown session", open_request(manifest, fork=unknown), GONE),
    ]


def wrong_later(manifest: Manifest, length: int, max_length: int) -> list[Wrong]:
    """Wrong requests to a session that holds `length` tokens of at most `max_length`."""
    width = manifest.model.hidden_size
    row = np.zeros((1, width), np.float16)
    step: Callable[..., InferRequest] = lambda **changes: step_request(  # noqa: E731
        length, tensor=tensor_of(row, **changes)
    )
    float32 = DataType.DATA_TYPE_FLOAT32
    vocabulary = LogitsRequest(
        rows=LogitsRows.LOGITS_ROWS_LAST, dtype=float32, top_k=manifest.model.vocab_size + 1
    )
    everything = LogitsRequest(rows=9, dtype=float32)  # type: ignore[arg-type]
    overflowing = np.zeros((max_length - length + 1, width), np.float16)
    return [
        Wrong("no message", b"\xff\xff\xff", INVALID),
        Wrong("an empty message", InferRequest(), UNFIT),
        Wrong("open again", open_request(manifest), UNFIT),
        Wrong("a wrong type", step(dtype=DataType.DATA_TYPE_INT32), INVALID),
        Wrong("a wrong shape", step(shape=[1, width - 1]), INVALID),
        Wrong("no rows", step(shape=[0, width], data=b""), INVALID),
        Wrong("bytes missing", step(data=bytes(2 * width - 2)), INVALID),
        Wrong("not a number", step_request(length, row * np.float16("nan")), INVALID),
        Wrong("unknown rows of logits", step_request(length, row, logits=everything), INVALID),
        Wrong("too many of the largest", step_request(length, row, logits=vocabulary), INVALID),
        Wrong("beyond the end", step_request(length + 1, row), BEYOND),
        Wrong("more than it may hold", step_request(length, overflowing), BEYOND),
        Wrong("an echo", step_request(length, row, echo=True), UNFIT),
        Wrong("a huge message", bytes(4 * 2**20), (StatusCode.RESOURCE_EXHAUSTED,)),
    ]
