"""The protocol written by hand, for requests that our client would never send."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, sleep
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from stip.v1.inference_pb2 import (
    CloseSession,
    InferRequest,
    InferResponse,
    LogitsRequest,
    LogitsRows,
    OpenSession,
    SessionOpened,
    Step,
    StepResult,
)
from stip.v1.manifest_pb2 import Manifest
from stip.v1.tensor_pb2 import DataType, Tensor
from tests.support.waiting import PATIENCE

CLOSE = InferRequest(close=CloseSession())
INFER = "/stip.v1.InferenceService/Infer"
# A stream that hangs ends with DEADLINE_EXCEEDED, which no test expects.
DEADLINE = PATIENCE
Metadata = Iterable[tuple[str, str]]
ITEM_BYTES = {DataType.DATA_TYPE_FLOAT16: "<f2", DataType.DATA_TYPE_FLOAT32: "<f4"}


@dataclass(frozen=True)
class Refusal:
    """The status that ended a stream, with its google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    field: str = ""
    retry_after: float | None = None


class WireStream:
    """One Infer call. Requests are messages, or bytes that need not be a message at all."""

    def __init__(
        self, channel: grpc.Channel, *, deadline: float = DEADLINE, metadata: Metadata = ()
    ) -> None:
        infer = channel.stream_stream(
            INFER, request_serializer=_serialize, response_deserializer=InferResponse.FromString
        )
        self._requests: SimpleQueue[InferRequest | bytes | None] = SimpleQueue()
        self.call: Any = infer(
            iter(self._requests.get, None), timeout=deadline, metadata=tuple(metadata)
        )

    def send(self, *requests: InferRequest | bytes) -> WireStream:
        for request in requests:
            self._requests.put(request)
        return self

    def opened(self) -> SessionOpened:
        return next(self.call).opened

    def result(self) -> StepResult:
        return next(self.call).result

    def refusal(self) -> Refusal:
        """The status that ends the stream; answers that come before it are read over."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError("the stream ended with OK")

    def close(self) -> None:
        """End the session, and wait until the server has ended the stream."""
        self.send(CLOSE)
        self.half_close()

    def half_close(self) -> None:
        """Close our side of the stream alone, and wait until the server has ended it."""
        self.half_close_only()
        for _ in self.call:
            pass

    def half_close_only(self) -> None:
        """Close our side of the stream, without waiting for the server."""
        self._requests.put(None)

    def break_off(self) -> None:
        """Cancel the stream, as a lost connection does."""
        self.call.cancel()
        self._requests.put(None)

    def __enter__(self) -> WireStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.call.is_active() and kind is None:
            self.close()
        else:
            self.break_off()


@contextmanager
def connection(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> Iterator[grpc.Channel]:
    """A connection of its own, which shares nothing with other channels to the same server."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with (
        grpc.insecure_channel(address, options=options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    ) as channel:
        yield channel


def dial(address: str) -> socket.socket:
    """A bare connection; where the port is closed for the moment, it is tried again."""
    host, _, port = address.rpartition(":")
    end = monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=PATIENCE)
        except ConnectionError:
            assert monotonic() < end, "the port stays closed"
            sleep(0.02)


def read_manifest(bundle: Path) -> Manifest:
    return json_format.Parse((bundle / "manifest.json").read_bytes(), Manifest())


def open_request(manifest: Manifest, **changes: Any) -> InferRequest:
    """The right open request of a bundle, but for the changes."""
    fields = {"key_id": manifest.key_id, "bundle_id": manifest.bundle_id, **changes}
    return InferRequest(open=OpenSession(**fields))


def step_request(
    position: int,
    rows: NDArray[Any] | None = None,
    *,
    tensor: Tensor | None = None,
    logits: LogitsRequest | None = None,
    echo: bool = False,
) -> InferRequest:
    """A step with the last row's logits as float32 unless the arguments say otherwise."""
    if tensor is None:
        assert rows is not None
        tensor = tensor_of(rows)
    if logits is None:
        logits = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_LAST, dtype=DataType.DATA_TYPE_FLOAT32)
    return InferRequest(
        step=Step(position=position, hidden_states=tensor, logits=logits, echo=echo)
    )


def tensor_of(rows: NDArray[Any], **changes: Any) -> Tensor:
    """A tensor of the rows, but for the changes."""
    dtype = {
        np.dtype(np.float16): DataType.DATA_TYPE_FLOAT16,
        np.dtype(np.float32): DataType.DATA_TYPE_FLOAT32,
        np.dtype(np.uint16): DataType.DATA_TYPE_BFLOAT16,
    }[rows.dtype]
    return Tensor(**{"dtype": dtype, "shape": rows.shape, "data": rows.tobytes(), **changes})


def logits_of(result: StepResult) -> NDArray[np.float32]:
    values = result.logits.values
    return np.frombuffer(values.data, ITEM_BYTES[values.dtype]).reshape(values.shape)


def refusal_of(error: grpc.RpcError) -> Refusal:
    """What a failed call says."""
    reason, field, retry_after = "", "", None
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "stip.v1"
            reason = info.reason
        elif detail.Unpack(bad):
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return Refusal(error.code(), error.details(), reason, field, retry_after)


def _serialize(request: InferRequest | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
