"""No hidden state, no logit and no session id appears in the log or in metrics."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stip.v1.inference_pb2 import ForkPoint, InferRequest
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE
from tests.support.wire.fuzzer import Fuzzer
from tests.support.wire.requests import (
    WireStream,
    connection,
    logits_of,
    open_request,
    step_request,
    tensor_of,
)

FAILING, LOSING, STRAY = 5, 7, 200
RNG = np.random.default_rng(11)


def rows_of(count: int) -> NDArray[np.float32]:
    """Hidden states such as no other number in a log is like."""
    return RNG.normal(size=(count, 60)).astype(np.float32)


def forms(content: bytes) -> set[str]:
    """How bytes may come to stand in a text; pieces of them as well."""
    pieces = [content[at : at + 12] for at in range(0, min(len(content), 480), 12)]
    found = set()
    for piece in pieces:
        # base64 of bytes that begin one or two before the piece differs: leave out its ends
        shifted = [base64.b64encode(b"\0" * n + piece).decode()[4:-4] for n in range(3)]
        octal = "".join(f"\\{byte:03o}" for byte in piece[:6])
        found |= {piece[:8].hex(), piece[:8].hex().upper(), repr(piece[:8])[2:-1], octal, *shifted}
    return found


def decimals(values: NDArray[np.float32]) -> set[str]:
    """The values as decimals, without the digits that rounding changes."""
    return {f"{value:.7f}"[:-1] for value in values.reshape(-1)[:200].tolist() if abs(value) > 0.01}


@pytest.fixture(params=["text", "json"])
def server(
    talking_bundles: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    faults = (f"fail={FAILING}", f"lose={LOSING}")
    flags = ("--allow-echo", "--log-level", "debug", "--log-format", request.param)
    with watched_server(talking_bundles / "server", tmp_path, *flags, faults=faults) as server:
        yield server


def play(channel: grpc.Channel, *requests: InferRequest | bytes) -> None:
    """Send a stream's requests, and read whatever the server answers."""
    with suppress(grpc.RpcError):
        WireStream(channel, deadline=PATIENCE).send(*requests).half_close()


def wrong_requests(manifest: Manifest, session_id: bytes) -> list[InferRequest | bytes]:
    """Refused each in another way; what is sent stands in most of them."""
    rows = rows_of(3)
    not_finite = rows.copy()
    not_finite[1, 5] = np.nan
    sent = step_request(0, rows, echo=True)
    return [
        step_request(0, not_finite),
        step_request(9, rows),
        step_request(0, tensor=tensor_of(rows, shape=[3, 59])),
        step_request(0, tensor=tensor_of(rows, dtype=DataType.DATA_TYPE_FLOAT16)),
        step_request(0, tensor=tensor_of(rows, dtype=DataType.DATA_TYPE_INT32)),
        step_request(0, rows_of(FAILING)),
        step_request(0, rows_of(LOSING)),
        step_request(0, rows_of(3000)),
        sent.SerializeToString()[:-9],
        sent.SerializeToString()[7:],
        open_request(manifest, resume_session_id=session_id),
    ]


def test_nothing_that_is_sent_or_answered_is_logged(
    server: Watched, talking_manifest: Manifest
) -> None:
    secret: set[str] = set()

    def keep(request: InferRequest | bytes) -> InferRequest | bytes:
        if isinstance(request, InferRequest):
            tensor = request.step.hidden_states
            secret.update(forms(tensor.data))
            if tensor.dtype == DataType.DATA_TYPE_FLOAT32:
                secret.update(decimals(np.frombuffer(tensor.data[:800], np.float32)))
        return request

    with connection(server.address) as channel:
        for number in range(len(wrong_requests(talking_manifest, bytes(16)))):
            stream = WireStream(channel, deadline=PATIENCE).send(open_request(talking_manifest))
            session_id = stream.opened().session_id
            secret.update((session_id.hex(), base64.b64encode(session_id).decode()[:20]))
            secret.add(repr(session_id)[2:-1])
            logits = logits_of(stream.send(keep(step_request(0, rows_of(3)))).result())
            secret.update(forms(logits.tobytes()) | decimals(logits))
            stream.send(keep(wrong_requests(talking_manifest, session_id)[number])).refusal()
            # found again under its id, or not
            for changes in (
                {"resume_session_id": session_id},
                {"fork": ForkPoint(session_id=session_id)},
                {"resume_session_id": session_id[:-1]},
            ):
                play(channel, open_request(talking_manifest, **changes))
        fuzzer = Fuzzer("log", talking_manifest)
        for _ in range(STRAY):
            play(channel, *fuzzer.script().requests)
    with urllib.request.urlopen(server.metrics_url, timeout=PATIENCE) as answer:
        metrics = answer.read().decode()
    server.stop()
    assert "injected" in server.log and "NOT_FINITE" in server.log
    assert len(secret) > 1000
    for said in (server.log, metrics):
        assert not [text for text in secret if text in said]
