"""Translates the protocol's messages into plain data, with checks, and results into messages.

Pure functions. Each check raises a ServiceError that names the field, the value found and what
would be right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import (
    InferRequest,
    Limits,
    Logits,
    LogitsRequest,
    LogitsRows,
    StepResult,
)
from stip.v1.manifest_pb2 import Head, Manifest
from stip.v1.tensor_pb2 import DataType, Tensor
from stip_model.bundle.modes import output_width
from stip_model.bundle.weight_types import BY_WIRE_TYPE, WEIGHT_TYPES, data_type_name
from stip_server.engine.step import LogitsForm, StepLogits, StepOutcome, WantedRows
from stip_server.errors import ServiceError

ECHOED_FLOATS = 10
_ROWS = {
    LogitsRows.LOGITS_ROWS_UNSPECIFIED: WantedRows.NONE,
    LogitsRows.LOGITS_ROWS_NONE: WantedRows.NONE,
    LogitsRows.LOGITS_ROWS_LAST: WantedRows.LAST,
    LogitsRows.LOGITS_ROWS_ALL: WantedRows.ALL,
}


class StepRequest(NamedTuple):
    """A step that has passed all checks."""

    position: int
    hidden_states: NDArray[Any]  # [rows, hidden_size]
    form: LogitsForm
    logits_bytes: int  # of the answer
    echo: bool


def parsed(request: InferRequest | None) -> InferRequest:
    """The request. Raises ServiceError for None, a message that could not be parsed."""
    if request is None:
        raise ServiceError(
            ErrorReason.ERROR_REASON_MALFORMED, "the message is not a stip.v1.InferRequest"
        )
    return request


def step_request(
    request: InferRequest, manifest: Manifest, limits: Limits, *, sent_length: int, max_length: int
) -> StepRequest:
    """The step of a request. Raises ServiceError.

    The session will have `sent_length` tokens by then, and may have `max_length`.
    """
    if request.WhichOneof("request") != "step":
        raise ServiceError(
            ErrorReason.ERROR_REASON_NOT_A_STEP,
            "after open, a request must be a step or close",
            field="open",
        )
    message = request.step
    rows = hidden_states(message.hidden_states, manifest.model.hidden_size, limits)
    form = logits_form(message.logits, manifest)
    logits_bytes = form.nbytes(len(rows), output_width(manifest))
    if logits_bytes > limits.max_logits_bytes:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOO_MANY_LOGITS,
            f"the answer would take {logits_bytes} bytes; at most {limits.max_logits_bytes} "
            "are given",
            field="step.logits",
        )
    if message.echo and not limits.echo_allowed:
        raise ServiceError(
            ErrorReason.ERROR_REASON_ECHO_NOT_ALLOWED,
            "this server does not echo (--allow-echo)",
            field="step.echo",
        )
    if message.position > sent_length:
        raise ServiceError(
            ErrorReason.ERROR_REASON_POSITION_BEYOND_END,
            f"position {message.position} is beyond the session's {sent_length} tokens",
            field="step.position",
        )
    new_end = message.position + len(rows)
    if new_end > max_length:
        raise ServiceError(
            ErrorReason.ERROR_REASON_CONTEXT_OVERFLOW,
            f"{new_end} tokens are beyond the session's maximum of {max_length}",
            field="step.hidden_states",
        )
    return StepRequest(message.position, rows, form, logits_bytes, message.echo)


def hidden_states(tensor: Tensor, hidden_size: int, limits: Limits) -> NDArray[Any]:
    """The rows of a step, [rows, hidden_size], in the type they were sent in; bfloat16 as float32.

    The array is a view of the message's bytes, except for bfloat16. Raises ServiceError.
    """
    where = "step.hidden_states"
    if tensor.dtype not in BY_WIRE_TYPE:
        raise ServiceError(
            ErrorReason.ERROR_REASON_WRONG_DTYPE,
            f"hidden_states are {data_type_name(tensor.dtype)}; send {', '.join(WEIGHT_TYPES)}",
            field=f"{where}.dtype",
        )
    weight_type = BY_WIRE_TYPE[tensor.dtype]
    bits, exponent = weight_type.bits, weight_type.exponent
    shape = list(tensor.shape)
    if len(shape) != 2 or shape[1] != hidden_size or shape[0] < 1:
        raise ServiceError(
            ErrorReason.ERROR_REASON_WRONG_SHAPE,
            f"hidden_states have shape {_short(shape)}; [rows, {hidden_size}] is taken",
            field=f"{where}.shape",
        )
    if shape[0] > limits.max_step_rows:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOO_MANY_ROWS,
            f"a step of {shape[0]} rows; at most {limits.max_step_rows} are taken",
            field=f"{where}.shape",
        )
    expected = shape[0] * shape[1] * bits.itemsize
    if len(tensor.data) != expected:
        raise ServiceError(
            ErrorReason.ERROR_REASON_WRONG_BYTE_COUNT,
            f"hidden_states have {len(tensor.data)} bytes; shape {shape} of "
            f"{data_type_name(tensor.dtype)} has {expected}",
            field=f"{where}.data",
        )
    if expected > limits.max_step_bytes:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOO_MANY_BYTES,
            f"a step of {expected} bytes; at most {limits.max_step_bytes} are taken",
            field=f"{where}.data",
        )
    raw = np.frombuffer(tensor.data, dtype=bits)
    mask = bits.type(exponent)
    bad = (raw & mask) == mask
    if bad.any():
        row = int(bad.argmax()) // hidden_size
        raise ServiceError(
            ErrorReason.ERROR_REASON_NOT_FINITE,
            f"row {row} of hidden_states holds NaN or Inf",
            field=f"{where}.data",
        )
    return _as_floats(raw, tensor.dtype).reshape(shape)


def logits_form(request: LogitsRequest, manifest: Manifest) -> LogitsForm:
    """The logits, or final hidden states, that a step asks for. Raises ServiceError."""
    if request.rows not in _ROWS:
        raise ServiceError(
            ErrorReason.ERROR_REASON_WRONG_LOGITS_ROWS,
            f"logits.rows is {request.rows}",
            field="step.logits.rows",
        )
    if request.dtype not in (
        DataType.DATA_TYPE_UNSPECIFIED,
        DataType.DATA_TYPE_FLOAT16,
        DataType.DATA_TYPE_FLOAT32,
    ):
        raise ServiceError(
            ErrorReason.ERROR_REASON_WRONG_DTYPE,
            f"logits as {data_type_name(request.dtype)}; float16 or float32 are given",
            field="step.logits.dtype",
        )
    width = output_width(manifest)
    if request.top_k and manifest.head == Head.HEAD_CLIENT:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOP_K_WITHOUT_HEAD,
            f"top_k is {request.top_k}; the head is the client's, whole rows are given (top_k 0)",
            field="step.logits.top_k",
        )
    if request.top_k > width:
        raise ServiceError(
            ErrorReason.ERROR_REASON_TOP_K_TOO_LARGE,
            f"top_k {request.top_k} is beyond the vocabulary of {width}",
            field="step.logits.top_k",
        )
    half_precision = request.dtype != DataType.DATA_TYPE_FLOAT32
    return LogitsForm(_ROWS[request.rows], request.top_k, half_precision)


def step_result(
    request: StepRequest, outcome: StepOutcome, head: Head, *, waited: float
) -> StepResult:
    """The answer to a step that was computed `waited` seconds after its receipt."""
    result = StepResult(length=outcome.length or 0)
    result.timings.queue_nanos = max(0, round(waited * 1e9))
    result.timings.compute_nanos = round(outcome.computed * 1e9)
    if outcome.logits is not None:
        logits = _logits_message(outcome.logits, half=request.form.half_precision)
        if head == Head.HEAD_CLIENT:
            result.hidden_states.CopyFrom(logits.values)
        else:
            result.logits.CopyFrom(logits)
    if request.echo:
        first = request.hidden_states.reshape(-1)[:ECHOED_FLOATS]
        result.received.extend(first.astype(np.float32).tolist())
    return result


def _logits_message(logits: StepLogits, *, half: bool) -> Logits:
    shape = [logits.rows, logits.width]
    dtype = DataType.DATA_TYPE_FLOAT16 if half else DataType.DATA_TYPE_FLOAT32
    message = Logits(values=Tensor(dtype=dtype, shape=shape, data=logits.values))
    if logits.indices:
        message.indices.CopyFrom(
            Tensor(dtype=DataType.DATA_TYPE_INT32, shape=shape, data=logits.indices)
        )
        message.log_sum_exp.CopyFrom(
            Tensor(dtype=DataType.DATA_TYPE_FLOAT32, shape=[logits.rows], data=logits.log_sum_exp)
        )
    return message


def _as_floats(bits: NDArray[Any], dtype: int) -> NDArray[Any]:
    """The floats that raw bits stand for; bfloat16, which NumPy lacks, as float32, exactly."""
    if dtype == DataType.DATA_TYPE_BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16 if bits.itemsize == 2 else np.float32)


def _short(shape: list[int]) -> str:
    return str(shape) if len(shape) <= 8 else f"{shape[:8]} and {len(shape) - 8} more"
