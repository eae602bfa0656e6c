"""One forward call: tokens to steps, and the results of these steps to logits. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import (
    InferRequest,
    InferResponse,
    Limits,
    LogitsRequest,
    LogitsRows,
    Step,
    StepResult,
)
from stip.v1.tensor_pb2 import DataType
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import RequestError, ServerError
from stip_client.transport.step_profile import StepProfile
from stip_client.transport.wire_tensors import (
    DTYPES,
    WIRE_TYPES,
    LogitsArrays,
    decode_hidden_states,
    decode_logits,
    encode,
)

# gRPC frames each message with a flag and a length.
FRAME_BYTES = 5
RowsName = Literal["all", "last", "none"]
_ROWS = {
    "all": LogitsRows.LOGITS_ROWS_ALL,
    "last": LogitsRows.LOGITS_ROWS_LAST,
    "none": LogitsRows.LOGITS_ROWS_NONE,
}


@dataclass(frozen=True)
class LogitsForm:
    """Which logits a forward call returns. top_k 0 is the whole vocabulary.

    Where the client makes the logits itself, they are always whole rows; dtype is then the type of
    the final hidden states on the wire. Raises RequestError for an unknown name of rows.
    """

    rows: RowsName = "all"
    dtype: Literal["float16", "float32"] = "float32"
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.rows not in _ROWS:
            raise RequestError(f"rows is {self.rows!r}, not one of {', '.join(_ROWS)}")


NO_LOGITS = LogitsForm("none")


@dataclass(frozen=True)
class ForwardResult:
    """What a forward call returns. `received`: the first ten floats, where the server echoes."""

    logits: LogitsArrays | None
    profile: StepProfile
    received: tuple[float, ...] = ()


class ForwardCall:
    """Makes the steps of one forward call, takes their results and joins them.

    Several steps are made where one would exceed the server's limits.
    """

    def __init__(
        self,
        bundle: ClientBundle,
        limits: Limits,
        token_ids: Sequence[int],
        form: LogitsForm,
        *,
        start: int,
        dtype: DataType,
        idle_since: float,
        echo: bool = False,
    ) -> None:
        """start: the number of tokens that precede these. dtype: that of the hidden states sent.
        idle_since: the time by perf_counter at which the client began to prepare this call.
        """
        self.start = start
        self.token_ids = token_ids
        self.received_at = idle_since
        self._bundle = bundle
        self._limits = limits
        self._form = form
        self._dtype = dtype
        self._idle_since = idle_since
        self._echo = echo
        self._results: list[StepResult] = []
        self._client_seconds = self._head_seconds = 0.0
        self._bytes_up = self._bytes_down = 0
        self._sent_at: float | None = None

    @property
    def end(self) -> int:
        """The number of tokens that the session holds after the call."""
        return self.start + len(self.token_ids)

    @property
    def rows_per_step(self) -> int:
        """The most rows in a step within the server's limits. Raises RequestError if it is 0."""
        model, limits, form = self._bundle.manifest.model, self._limits, self._form
        row_bytes = model.hidden_size * DTYPES[self._dtype].itemsize
        rows: int = min(limits.max_step_rows, limits.max_step_bytes // row_bytes)
        if form.rows == "all":
            itemsize, top_k = 2 if form.dtype == "float16" else 4, self._top_k(form)
            width = model.vocab_size if self._bundle.head is None else model.hidden_size
            result_bytes = itemsize * width
            if top_k:  # each logit with its index, and the row's log-sum-exp
                result_bytes = (itemsize + 4) * top_k + 4
            rows = min(rows, limits.max_logits_bytes // result_bytes)
        if rows < 1:
            raise RequestError("not even one row fits into the server's limits")
        return rows

    def requests(self) -> Iterator[InferRequest]:
        """The steps in order; each is made when it is asked for.

        Only the last step asks for logits, unless all rows are wanted.
        """
        count, size = len(self.token_ids), self.rows_per_step
        for first in range(0, count, size):
            stop = min(first + size, count)
            needed = self._form.rows == "all" or stop == count
            request = self._step(first, stop, self._form if needed else NO_LOGITS)
            if self._sent_at is None:
                self._sent_at = perf_counter()
                self._client_seconds = self._sent_at - self._idle_since
            self._bytes_up += FRAME_BYTES + request.ByteSize()
            yield request

    def add_response(self, response: InferResponse) -> None:
        """Take the response to the next step. Raises ServerError if it holds no result."""
        if response.WhichOneof("response") != "result":
            raise ServerError("the server did not answer a step with its result")
        self.received_at = perf_counter()
        self._bytes_down += FRAME_BYTES + response.ByteSize()
        self._results.append(response.result)

    def result(self) -> ForwardResult:
        """The result, once every step has its response. Raises ServerError for nonsense."""
        results = self._results
        if results[-1].length != self.end:
            raise ServerError(f"the server holds {results[-1].length} tokens instead of {self.end}")
        logits = self.logits
        queue = results[0].timings.queue_nanos / 1e9
        compute = sum(result.timings.compute_nanos for result in results) / 1e9
        round_trip = self.received_at - (self._sent_at or self.received_at)
        profile = StepProfile(
            rows=len(self.token_ids),
            client=self._client_seconds,
            wire=max(0.0, round_trip - queue - compute),
            queue=queue,
            compute=compute,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            head=self._head_seconds,
        )
        return ForwardResult(logits, profile, tuple(results[0].received))

    @cached_property
    def logits(self) -> LogitsArrays | None:
        """The logits in vocabulary order, once every step has its response.

        Takes long where the client makes them itself; another thread may read it first.
        """
        if self._form.rows == "none":
            return None
        bundle, model = self._bundle, self._bundle.manifest.model
        if bundle.head is not None:
            states = [
                decode_hidden_states(each.hidden_states, model.hidden_size)
                for each in self._results
                if each.HasField("hidden_states")
            ]
            self._check_rows(states)
            begun = perf_counter()
            own = bundle.head.logits(np.concatenate(states))
            self._head_seconds = perf_counter() - begun
            if not np.isfinite(own).all():
                raise ServerError("the server sent hidden states that make no finite logits")
            return LogitsArrays(own)
        width = self._form.top_k or model.vocab_size
        parts = [
            decode_logits(each.logits, width, model.vocab_size)
            for each in self._results
            if each.HasField("logits")
        ]
        self._check_rows([part.values for part in parts])
        logits = parts[0] if len(parts) == 1 else _joined(parts)
        return logits if bundle.vocabulary is None else bundle.vocabulary.open(logits)

    def _top_k(self, form: LogitsForm) -> int:
        """What to ask of the server, which knows no logits where the head is the client's."""
        return form.top_k if self._bundle.head is None else 0

    def _step(self, first: int, stop: int, form: LogitsForm) -> InferRequest:
        embeddings = self._bundle.masked_embeddings(self.token_ids[first:stop])
        return InferRequest(
            step=Step(
                position=self.start + first,
                hidden_states=encode(embeddings, self._dtype),
                logits=LogitsRequest(
                    rows=_ROWS[form.rows],
                    dtype=WIRE_TYPES[form.dtype],
                    top_k=self._top_k(form),
                ),
                echo=self._echo and first == 0,
            )
        )

    def _check_rows(self, parts: Sequence[NDArray[Any]]) -> None:
        rows = 1 if self._form.rows == "last" else len(self.token_ids)
        if sum(map(len, parts)) != rows:
            raise ServerError("the server did not send the logits that were asked for")


def _joined(parts: Sequence[LogitsArrays]) -> LogitsArrays:
    values = np.concatenate([part.values for part in parts])
    indices = [part.indices for part in parts if part.indices is not None]
    sums = [part.log_sum_exp for part in parts if part.log_sum_exp is not None]
    if not indices:
        return LogitsArrays(values)
    return LogitsArrays(values, np.concatenate(indices), np.concatenate(sums))
