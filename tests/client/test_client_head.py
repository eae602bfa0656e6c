"""The client of a bundle that has the head: what it asks for, and which answers it refuses."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import numpy as np
import pytest
from numpy.typing import NDArray

from stip.v1.inference_pb2 import InferResponse, Limits, Logits, SessionOpened, StepResult
from stip.v1.tensor_pb2 import DataType
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.bundle.head import BLOCK_BYTES, ClientHead
from stip_client.errors import ServerError
from stip_client.session.forward_call import ForwardResult, LogitsForm
from stip_client.session.session_core import SessionCore
from stip_client.transport.wire_tensors import encode
from stip_keys.masks.permutation import PermutationMask
from tests.support.models.random_checkpoint import DTYPES, RandomCheckpoint
from tests.support.parties import BASE_SEED, make_model


@pytest.fixture(scope="module")
def bundle(
    tiny_checkpoint: RandomCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> ClientBundle:
    options = ("--head", "client", "--base-seed", BASE_SEED)
    folder: Path = make_model(tmp_path_factory.mktemp("head"), tiny_checkpoint, *options)
    return ClientBundle(folder / "client")


def opened(bundle: ClientBundle, **limits: int) -> SessionCore:
    core = SessionCore(bundle)
    room = {"max_step_rows": 100, "max_step_bytes": 1 << 20, "max_logits_bytes": 1 << 20} | limits
    told = SessionOpened(session_id=bytes(16), max_length=100, limits=Limits(**room))
    core.accept_opened(InferResponse(opened=told))
    return core


def states(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("width", [64, 65])
def test_logits_over_several_blocks_are_those_of_one_product(dtype: str, width: int) -> None:
    count = 2 * (3 * BLOCK_BYTES // (2 * width)) + 7  # several a thread, and a part of one
    table, norm = states(count, width).astype(DTYPES[dtype]), states(width)
    hidden, p = states(3, width), np.random.default_rng(1).permutation(width)
    found = ClientHead(norm, table, PermutationMask(p)).logits(hidden[:, p])
    expected = (hidden * norm).astype(np.float64) @ table.astype(np.float64).T
    assert found.dtype == np.float32 and found.shape == (3, count)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_step_carries_as_many_rows_as_hidden_states_fit(bundle: ClientBundle) -> None:
    core = opened(bundle, max_logits_bytes=10 * 4 * bundle.embeddings.hidden_size)
    assert core.forward([1], LogitsForm("all")).rows_per_step == 10
    assert core.forward([1], LogitsForm("all", top_k=1)).rows_per_step == 10
    assert core.forward([1], LogitsForm("all", dtype="float16")).rows_per_step == 20


def answered(core: SessionCore, rows: int) -> ForwardResult:
    """The reply to so many tokens, that asks for every row."""
    forward = core.forward([1] * rows, LogitsForm("all"))
    list(forward.requests())
    values = encode(states(rows, 60), DataType.DATA_TYPE_FLOAT32)
    forward.add_response(
        InferResponse(result=StepResult(length=core.position + rows, hidden_states=values))
    )
    return core.finish(forward)


def test_a_reply_tells_how_long_the_head_took(
    bundle: ClientBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the seconds before the next step is sent, which are its client's."""
    core, logits = opened(bundle), ClientHead.logits

    def slow(head: ClientHead, hidden_states: NDArray[np.float32]) -> NDArray[np.float32]:
        sleep(0.02 * len(hidden_states))
        return logits(head, hidden_states)

    monkeypatch.setattr(ClientHead, "logits", slow)
    first, second = answered(core, 1).profile, answered(core, 3).profile
    assert 0.02 <= first.head <= second.client
    assert second.head >= 0.06
    assert (first + second).head == first.head + second.head


@pytest.mark.parametrize(
    "values",
    [states(1, 61), states(60), states(2, 60), states(0, 60), np.full((1, 60), np.nan), None],
    ids=["width", "one axis", "rows", "no row", "NaN", "logits"],
)
def test_an_answer_that_is_no_final_hidden_state_is_refused(
    bundle: ClientBundle, values: NDArray[np.float32] | None
) -> None:
    core = opened(bundle)
    forward = core.forward([1, 2], LogitsForm("last"))
    list(forward.requests())
    result = StepResult(length=2)
    float32 = DataType.DATA_TYPE_FLOAT32
    if values is None:
        result.logits.CopyFrom(Logits(values=encode(states(1, 151), float32)))
    else:
        result.hidden_states.CopyFrom(encode(np.nan_to_num(values), float32))
        result.hidden_states.data = values.astype("<f4").tobytes()
    forward.add_response(InferResponse(result=result))
    with pytest.raises(ServerError):
        core.finish(forward)
    assert core.position == 0
