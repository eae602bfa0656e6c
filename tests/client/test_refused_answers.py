"""What a server answers is checked: nonsense is a ServerError and moves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stip.v1.inference_pb2 import InferResponse, Limits, Logits, SessionOpened, StepResult
from stip.v1.tensor_pb2 import DataType, Tensor
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import ServerError
from stip_client.session.forward_call import LogitsForm
from stip_client.session.session_core import SessionCore
from stip_client.transport.wire_tensors import decode_logits

LIMITS = Limits(max_step_rows=64, max_step_bytes=1 << 20, max_logits_bytes=1 << 20)


def tensor(values: list[object], dtype: str = "<f4") -> Tensor:
    array = np.array(values, dtype)
    kind = DataType.DATA_TYPE_INT32 if dtype == "<i4" else DataType.DATA_TYPE_FLOAT32
    return Tensor(dtype=kind, shape=array.shape, data=array.tobytes())


GOOD = Logits(
    values=tensor([[2.0, 1.0]]), indices=tensor([[3, 0]], "<i4"), log_sum_exp=tensor([2.5])
)


def test_good_logits_are_taken() -> None:
    found = decode_logits(GOOD, width=2, vocab_size=4)
    assert found.values.tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize(
    "change",
    [
        {"values": tensor([[2.0, float("nan")]])},
        {"values": tensor([[2.0, float("inf")]])},
        {"values": tensor([[2.0]])},
        {"values": tensor([2.0, 1.0])},
        {"values": Tensor(dtype=DataType.DATA_TYPE_FLOAT32, shape=[1, 2], data=b"123")},
        {"values": Tensor(shape=[1, 2], data=b"12345678")},
        {"indices": tensor([[4, 0]], "<i4")},
        {"indices": tensor([[-1, 0]], "<i4")},
        {"indices": tensor([[1]], "<i4")},
        {"indices": None},
        {"log_sum_exp": tensor([float("nan")])},
        {"log_sum_exp": tensor([1.0, 2.0])},
    ],
    ids=lambda change: str(list(change)),
)
def test_malformed_logits_are_refused(change: dict[str, Tensor | None]) -> None:
    logits = Logits()
    logits.CopyFrom(GOOD)
    for name, value in change.items():
        logits.ClearField(name)
        if value is not None:
            getattr(logits, name).CopyFrom(value)
    with pytest.raises(ServerError):
        decode_logits(logits, width=2, vocab_size=4)


@pytest.fixture
def core(tiny_bundles: Path) -> SessionCore:
    core = SessionCore(ClientBundle(tiny_bundles / "client"))
    opened = SessionOpened(session_id=bytes(16), max_length=100, limits=LIMITS)
    core.accept_opened(InferResponse(opened=opened))
    return core


@pytest.mark.parametrize(
    "result", [StepResult(length=99), StepResult(length=3), StepResult(length=3, logits=GOOD)]
)
def test_a_bad_answer_leaves_the_position_where_it_was(
    core: SessionCore, result: StepResult
) -> None:
    forward = core.forward([1, 2, 3], LogitsForm("last"))
    list(forward.requests())
    forward.add_response(InferResponse(result=result))
    with pytest.raises(ServerError):
        core.finish(forward)
    assert core.position == 0


def test_an_answer_of_another_kind_is_refused(core: SessionCore) -> None:
    with pytest.raises(ServerError):
        core.forward([1], LogitsForm("none")).add_response(InferResponse())
    with pytest.raises(ServerError):
        core.accept_opened(InferResponse())


@pytest.mark.parametrize(("length", "again"), [(0, [7, 8, 9]), (2, [9]), (3, []), (90, [])])
def test_what_a_resumed_session_does_not_hold_is_sent_again(
    core: SessionCore, length: int, again: list[int]
) -> None:
    core.tokens = [7, 8, 9]
    opened = SessionOpened(session_id=bytes(16), max_length=100, limits=LIMITS, length=length)
    core.accept_opened(InferResponse(opened=opened))
    assert core.tokens[core.held :] == again
    requests = list(core.replay().requests())
    assert [each.step.position for each in requests] == [length] * bool(again)
    assert sum(each.step.hidden_states.shape[0] for each in requests) == len(again)
