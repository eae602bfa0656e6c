"""Tensors survive the wire in every dtype: the client's encoding against the server's decoding."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stip.v1.inference_pb2 import Limits, LogitsRequest, LogitsRows, StepResult
from stip.v1.manifest_pb2 import Head, Manifest, ModelConfig
from stip.v1.tensor_pb2 import DataType, Tensor
from stip_client.transport.wire_tensors import WIRE_TYPES, decode, decode_logits, encode
from stip_server.engine.step import LogitsForm, StepLogits, StepOutcome, WantedRows
from stip_server.errors import ServiceError
from stip_server.rpc import translate
from stip_server.rpc.translate import StepRequest

LIMITS = Limits(
    max_step_rows=64, max_step_bytes=1 << 20, max_logits_bytes=1 << 20, echo_allowed=True
)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 33))
NUMPY = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def finite_values(shape: tuple[int, int], dtype: str, seed: int) -> NDArray[np.float32]:
    """Values that the dtype represents exactly, small, large and subnormal ones among them."""
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal(shape) * 10.0 ** rng.integers(-7, 4, shape)
    return spread.astype(NUMPY[dtype]).astype(np.float32)


@given(shapes, st.sampled_from(sorted(WIRE_TYPES)), st.integers(0, 2**32 - 1))
def test_hidden_states_survive(shape: tuple[int, int], dtype: str, seed: int) -> None:
    values = finite_values(shape, dtype, seed)
    sent = Tensor.FromString(encode(values, WIRE_TYPES[dtype]).SerializeToString())
    received = translate.hidden_states(sent, shape[1], LIMITS)
    request = StepRequest(0, received, LogitsForm(WantedRows.NONE, 0, True), 0, echo=True)
    assert np.array_equal(received.astype(np.float32), values)
    echoed = translate.step_result(request, StepOutcome(), Head.HEAD_SERVER, waited=0.0).received
    assert list(echoed) == values.reshape(-1)[:10].tolist()


@given(shapes, st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_logits_survive(shape: tuple[int, int], half: bool, top_k: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = finite_values(shape, "float16" if half else "float32", seed)
    indices = rng.integers(0, 2**31 - 1, shape, dtype=np.int32)
    sums = rng.standard_normal(shape[0]).astype(np.float32)
    logits = StepLogits(
        *shape,
        values.astype("<f2" if half else "<f4").tobytes(),
        *((indices.tobytes(), sums.tobytes()) if top_k else ()),
    )
    wanted = DataType.DATA_TYPE_FLOAT16 if half else DataType.DATA_TYPE_FLOAT32
    request = LogitsRequest(
        rows=LogitsRows.LOGITS_ROWS_ALL, dtype=wanted, top_k=shape[1] if top_k else 0
    )
    manifest = Manifest(model=ModelConfig(vocab_size=shape[1]))
    form = translate.logits_form(request, manifest)
    sent = (logits.values, logits.indices, logits.log_sum_exp)
    assert form.nbytes(shape[0], shape[1]) == sum(len(each) for each in sent), (
        "what is counted is what is sent"
    )
    step = StepRequest(0, values, form, 0, echo=False)
    outcome = StepOutcome(logits=logits)
    result = translate.step_result(step, outcome, Head.HEAD_SERVER, waited=0.0)
    found = decode_logits(
        StepResult.FromString(result.SerializeToString()).logits,
        width=shape[1],
        vocab_size=2**31 if top_k else shape[1],
    )
    assert np.array_equal(found.values, values)
    if top_k:
        assert found.indices is not None and np.array_equal(found.indices, indices)
        assert found.log_sum_exp is not None and np.array_equal(found.log_sum_exp, sums)
    else:
        assert found.indices is None


@given(
    shapes,
    st.sampled_from(sorted(WIRE_TYPES)),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.data(),
)
def test_no_value_that_is_not_finite_gets_through(
    shape: tuple[int, int], dtype: str, bad: float, data: st.DataObject
) -> None:
    values = np.ones(shape, NUMPY[dtype])
    place = data.draw(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1)))
    values[place] = bad
    sent = Tensor(dtype=WIRE_TYPES[dtype], shape=shape, data=values.tobytes())
    with pytest.raises(ServiceError, match=f"row {place[0]} "):
        translate.hidden_states(sent, shape[1], LIMITS)
    assert decode(sent).shape == shape
