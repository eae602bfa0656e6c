"""A wrong step is refused with its reason, and the session loses nothing."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stip.v1.inference_pb2 import InferRequest, LogitsRequest, LogitsRows
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType, Tensor
from tests.support.fixtures.talking_model import MAX_STEP_ROWS, VOCAB_SIZE
from tests.support.parties import Server
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
    tensor_of,
)

HIDDEN_SIZE = 60
MAX_LENGTH = 64
INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

_rng = np.random.default_rng(3)
PROMPT = (_rng.integers(-127, 128, (3, HIDDEN_SIZE)) / 64).astype(np.float16)
NEXT = (_rng.integers(-127, 128, (1, HIDDEN_SIZE)) / 64).astype(np.float16)
TWO = np.ones((2, HIDDEN_SIZE), np.float16)
END = len(PROMPT)


def with_value(value: float, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Two rows, the second of which holds the value."""
    rows = TWO.astype(dtype)
    rows[1, 7] = value
    return rows


def bfloat16_bits(bits: int) -> NDArray[np.uint16]:
    rows = np.zeros((2, HIDDEN_SIZE), np.uint16)
    rows[1, 7] = bits
    return rows


def altered(**changes: Any) -> InferRequest:
    """A step of TWO whose tensor says something else."""
    return step_request(END, tensor=tensor_of(TWO, **changes))


def asking(states: NDArray[Any] = TWO, **logits: Any) -> InferRequest:
    return step_request(END, states, logits=LogitsRequest(**logits))


SHAPE, DTYPE, DATA = (f"step.hidden_states.{name}" for name in ("shape", "dtype", "data"))
ALL, LAST = LogitsRows.LOGITS_ROWS_ALL, LogitsRows.LOGITS_ROWS_LAST
FLOAT32, BFLOAT16 = DataType.DATA_TYPE_FLOAT32, DataType.DATA_TYPE_BFLOAT16
MANY = np.ones((MAX_STEP_ROWS + 1, HIDDEN_SIZE), np.float16)
REFUSED = {
    "row too narrow": (altered(shape=[2, 59]), INVALID, "WRONG_SHAPE", SHAPE, "59"),
    "one axis": (altered(shape=[120]), INVALID, "WRONG_SHAPE", SHAPE, "120"),
    "three axes": (altered(shape=[1, 2, 60]), INVALID, "WRONG_SHAPE", SHAPE, "[1, 2, 60]"),
    "no axis": (altered(shape=[]), INVALID, "WRONG_SHAPE", SHAPE, "[]"),
    "no row": (altered(shape=[0, 60], data=b""), INVALID, "WRONG_SHAPE", SHAPE, "[0, 60]"),
    "too many axes": (altered(shape=[1] * 5000), INVALID, "WRONG_SHAPE", SHAPE, "4992 more"),
    "unset dtype": (altered(dtype=0), INVALID, "WRONG_DTYPE", DTYPE, "unspecified"),
    "integers": (altered(dtype=4), INVALID, "WRONG_DTYPE", DTYPE, "int32"),
    "unknown dtype": (altered(dtype=99), INVALID, "WRONG_DTYPE", DTYPE, "99"),
    "no tensor": (step_request(END, tensor=Tensor()), INVALID, "WRONG_DTYPE", DTYPE, "unspec"),
    "a byte less": (altered(data=TWO.tobytes()[1:]), INVALID, "WRONG_BYTE_COUNT", DATA, "239"),
    "a byte more": (altered(data=TWO.tobytes() + b"\0"), INVALID, "WRONG_BYTE_COUNT", DATA, "241"),
    "no bytes": (altered(data=b""), INVALID, "WRONG_BYTE_COUNT", DATA, "has 240"),
    "4 bytes as 2": (altered(dtype=FLOAT32), INVALID, "WRONG_BYTE_COUNT", DATA, "has 480"),
    "NaN": (step_request(END, with_value(np.nan, np.float16)), INVALID, "NOT_FINITE", DATA, "1"),
    "Inf": (step_request(END, with_value(np.inf, np.float16)), INVALID, "NOT_FINITE", DATA, "1"),
    "-Inf": (step_request(END, with_value(-np.inf, np.float32)), INVALID, "NOT_FINITE", DATA, "1"),
    "float32 NaN": (
        step_request(END, with_value(np.nan, np.float32)),
        *(INVALID, "NOT_FINITE", DATA, "row 1"),
    ),
    "bfloat16 NaN": (
        step_request(END, bfloat16_bits(0x7FC0)),
        *(INVALID, "NOT_FINITE", DATA, "row 1"),
    ),
    "bfloat16 Inf": (
        step_request(END, bfloat16_bits(0xFF80)),
        *(INVALID, "NOT_FINITE", DATA, "row 1"),
    ),
    "too many rows": (step_request(END, MANY), INVALID, "TOO_MANY_ROWS", SHAPE, "8193"),
    "rows beyond memory": (altered(shape=[2**32 - 1, 60]), INVALID, "TOO_MANY_ROWS", SHAPE, "8192"),
    "too many bytes": (
        step_request(END, np.ones((4370, HIDDEN_SIZE), np.float32)),
        *(INVALID, "TOO_MANY_BYTES", DATA, "1048576"),
    ),
    "too many logits": (
        asking(MANY[1:], rows=ALL, dtype=FLOAT32),
        *(INVALID, "TOO_MANY_LOGITS", "step.logits", "67108864"),
    ),
    "top_k too large": (
        asking(rows=LAST, top_k=VOCAB_SIZE + 1),
        *(INVALID, "TOP_K_TOO_LARGE", "step.logits.top_k", str(VOCAB_SIZE)),
    ),
    "unknown rows": (asking(rows=9), INVALID, "WRONG_LOGITS_ROWS", "step.logits.rows", "9"),
    "logits as bfloat16": (
        asking(rows=LAST, dtype=BFLOAT16),
        *(INVALID, "WRONG_DTYPE", "step.logits.dtype", "bfloat16"),
    ),
    "position beyond the end": (
        step_request(END + 1, TWO),
        *(OUT_OF_RANGE, "POSITION_BEYOND_END", "step.position", "position 4"),
    ),
    "largest position": (
        step_request(2**32 - 1, TWO),
        *(OUT_OF_RANGE, "POSITION_BEYOND_END", "step.position", "3 tokens"),
    ),
    "context overflow": (
        step_request(END, np.ones((MAX_LENGTH - END + 1, HIDDEN_SIZE), np.float16)),
        *(OUT_OF_RANGE, "CONTEXT_OVERFLOW", "step.hidden_states", "65 tokens"),
    ),
    "echo not allowed": (
        step_request(END, TWO, echo=True),
        *(PRECONDITION, "ECHO_NOT_ALLOWED", "step.echo", "--allow-echo"),
    ),
}


@pytest.fixture(scope="module")
def right_answer(strict_server: Server, talking_manifest: Manifest) -> NDArray[np.float32]:
    """The logits of NEXT after PROMPT, in a session that nothing happens to."""
    with connection(strict_server.address) as channel, WireStream(channel) as stream:
        stream.send(
            open_request(talking_manifest), step_request(0, PROMPT), step_request(END, NEXT)
        )
        stream.opened()
        stream.result()
        answer = logits_of(stream.result())
    assert np.isfinite(answer).all()
    return answer


def assert_same(answer: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    scale = np.abs(right).max()
    np.testing.assert_allclose(answer, right, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_step_is_refused_by_name_and_nothing_is_lost(
    name: str,
    strict_channel: grpc.Channel,
    talking_manifest: Manifest,
    right_answer: NDArray[np.float32],
) -> None:
    request, code, reason, field, says = REFUSED[name]
    with WireStream(strict_channel) as beside:
        beside.send(open_request(talking_manifest), step_request(0, PROMPT))
        beside.opened()
        beside.result()
        stream = WireStream(strict_channel)
        stream.send(open_request(talking_manifest, max_length=MAX_LENGTH), step_request(0, PROMPT))
        session_id = stream.opened().session_id
        stream.result()

        refusal = stream.send(request).refusal()

        assert (refusal.code, refusal.reason, refusal.field) == (code, reason, field)
        assert says in refusal.message
        assert len(refusal.message) < 300
        with WireStream(strict_channel) as resumed:
            resumed.send(open_request(talking_manifest, resume_session_id=session_id))
            assert resumed.opened().length == END
            answer = resumed.send(step_request(END, NEXT)).result()
        assert answer.length == END + 1
        assert_same(logits_of(answer), right_answer)
        assert_same(logits_of(beside.send(step_request(END, NEXT)).result()), right_answer)


def test_steps_sent_before_a_bad_one_are_answered(
    strict_channel: grpc.Channel, talking_manifest: Manifest, right_answer: NDArray[np.float32]
) -> None:
    stream = WireStream(strict_channel)
    stream.send(
        open_request(talking_manifest),
        step_request(0, PROMPT),
        step_request(END, NEXT),
        step_request(99, TWO),
        step_request(END + 1, TWO),
    )
    session_id = stream.opened().session_id
    assert stream.result().length == END
    assert_same(logits_of(stream.result()), right_answer)
    assert stream.refusal().reason == "POSITION_BEYOND_END"
    with WireStream(strict_channel) as resumed:
        resumed.send(open_request(talking_manifest, resume_session_id=session_id))
        assert resumed.opened().length == END + 1


def test_rows_too_large_to_compute_with_do_not_harm_the_next_session(
    strict_channel: grpc.Channel, talking_manifest: Manifest, right_answer: NDArray[np.float32]
) -> None:
    giant = np.full((2, HIDDEN_SIZE), 3e38, np.float32)
    with WireStream(strict_channel) as harmed, WireStream(strict_channel) as beside:
        for stream in (harmed, beside):
            stream.send(open_request(talking_manifest), step_request(0, PROMPT)).opened()
            stream.result()
        harmed.send(step_request(END, giant))
        beside.send(step_request(END, NEXT))
        assert_same(logits_of(beside.result()), right_answer)
        harmed.result()
        # and what they left in the cache is gone with a rollback
        assert_same(logits_of(harmed.send(step_request(END, NEXT)).result()), right_answer)
