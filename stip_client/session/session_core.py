"""One session's side of the protocol, without any I/O: both clients drive this same core.

It makes requests and takes responses; it keeps the session's id, limits and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import (
    CloseSession,
    ForkPoint,
    InferRequest,
    InferResponse,
    Limits,
    LogitsRequest,
    LogitsRows,
    OpenSession,
    Step,
    StepResult,
)
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import ContextOverflowError, RequestError, ServerError
from stip_client.session.step_profile import StepProfile
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
class LogitsWanted:
    """Which logits a forward call asks for. top_k 0 is the whole vocabulary.

    Where the client makes the logits itself, they are always whole, and dtype is that of the final
    hidden states that it makes them of. Raises RequestError for rows of another name.
    """

    rows: RowsName = "all"
    dtype: Literal["float16", "float32"] = "float32"
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.rows not in _ROWS:
            raise RequestError(f"rows is {self.rows!r}, not one of {', '.join(_ROWS)}")


@dataclass(frozen=True)
class Reply:
    """The answer to one forward call: all its chunks put together."""

    logits: LogitsArrays | None
    profile: StepProfile
    received: tuple[float, ...] = ()


class SessionCore:
    """Makes the requests of a session and takes its responses.

    `tokens` are those that precede the next forward call. After a failed call they are what they
    were before, and the next call may resume the session on a new stream. `held` is how many of
    them the server holds at least: where they are fewer, the others are to be sent again.
    """

    def __init__(
        self,
        bundle: ClientBundle,
        *,
        dtype: str = "float16",
        max_length: int = 0,
        wait: float = 0.0,
    ) -> None:
        """max_length 0 leaves it to the server; `wait` seconds may pass until there is room."""
        if dtype not in WIRE_TYPES:
            raise ValueError(f"dtype {dtype!r} is none of {', '.join(WIRE_TYPES)}")
        self._bundle = bundle
        self._wire_type = WIRE_TYPES[dtype]
        self._dtype = dtype
        self._requested_length = max_length
        self._wait = wait
        self._fork: ForkPoint | None = None
        self._limits = Limits()
        self.session_id = b""
        self.tokens: list[int] = []
        self.held = 0
        self.max_length = 0
        self._last_receipt = perf_counter()

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return len(self.tokens)

    @property
    def bundle(self) -> ClientBundle:
        """The bundle that the session's tokens are embedded and masked with."""
        return self._bundle

    @property
    def vocab_size(self) -> int:
        """The width of a whole row of logits."""
        size: int = self._bundle.manifest.model.vocab_size
        return size

    @property
    def steps_in_flight(self) -> int:
        """How many steps may be unanswered at once."""
        return max(1, self._limits.max_steps_in_flight)

    @property
    def wait(self) -> float:
        """Seconds that may pass until there is room for the session."""
        return self._wait

    def open_request(self, wait: float = 0.0) -> InferRequest:
        """The first request of a stream: opens the session, or resumes it after a broken stream.

        A new session may wait for room for so many seconds.
        """
        manifest = self._bundle.manifest
        request = OpenSession(
            key_id=manifest.key_id, bundle_id=manifest.bundle_id, head=manifest.head
        )
        if self.session_id:
            request.resume_session_id = self.session_id
        else:
            request.max_length = self._requested_length
            request.wait_millis = round(wait * 1000)
            if self._fork is not None:
                request.fork.CopyFrom(self._fork)
        return InferRequest(open=request)

    def fork(self, length: int | None, *, max_length: int, wait: float) -> SessionCore:
        """The core of a session that begins with this one's first `length` tokens (None: all).

        Raises RequestError beyond the end.
        """
        length = self.position if length is None else length
        if not 0 <= length <= self.position:
            raise RequestError(
                f"cannot fork {length} tokens: the session holds {self.position} tokens"
            )
        core = self.copy(self.tokens[:length], max_length or self.max_length, wait)
        # of no tokens there is nothing to share, and a fork of length 0 would be one of all; what
        # the server does not hold at present is sent
        if length and self.session_id and self.held >= length:
            core._fork = ForkPoint(session_id=self.session_id, length=length)
        return core

    def copy(self, tokens: Sequence[int], max_length: int, wait: float) -> SessionCore:
        """The core of another session of this bundle, that is to hold some tokens."""
        core = SessionCore(self._bundle, dtype=self._dtype, max_length=max_length, wait=wait)
        core.tokens = list(tokens)
        return core

    @property
    def forks(self) -> bool:
        """Whether the session is to begin with another's tokens, without sending them."""
        return self._fork is not None and not self.session_id

    def begin_anew(self) -> None:
        """Forget the session that was lost: the next open request opens another in its place."""
        self.session_id, self.held, self._fork = b"", 0, None
        self._requested_length = self.max_length or self._requested_length

    def close_request(self) -> InferRequest:
        """The last request of a session: ends it."""
        return InferRequest(close=CloseSession())

    def take_opened(self, response: InferResponse) -> None:
        """Take the answer to open_request."""
        if response.WhichOneof("response") != "opened":
            raise ServerError("the server did not answer the open request")
        opened = response.opened
        self.session_id = opened.session_id
        self.held = min(opened.length, self.position)
        self.max_length = opened.max_length
        self._limits = opened.limits

    def rollback(self, position: int) -> None:
        """Continue from `position`; costs no round trip. Raises RequestError beyond the end."""
        if not 0 <= position <= self.position:
            raise RequestError(
                f"cannot roll back to {position}: the session holds {self.position} tokens"
            )
        del self.tokens[position:]

    def replay(self) -> Forward:
        """Prepare the steps that send again what the server does not hold."""
        return Forward(self, self.tokens[self.held :], LogitsWanted("none"), start=self.held)

    def forward(
        self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False
    ) -> Forward:
        """Prepare the steps for some tokens. Raises RequestError or ContextOverflowError."""
        if len(token_ids) == 0:
            raise RequestError("no tokens to forward")
        end = self.position + len(token_ids)
        if end > self.max_length:
            raise ContextOverflowError(
                f"{end} tokens are beyond the session's maximum of {self.max_length}"
            )
        return Forward(self, token_ids, wanted, start=self.position, echo=echo)

    def chunk_rows(self, wanted: LogitsWanted) -> int:
        """How many rows a step may carry within the server's limits."""
        model, limits = self._bundle.manifest.model, self._limits
        row_bytes = model.hidden_size * DTYPES[self._wire_type].itemsize
        rows = min(limits.max_step_rows, limits.max_step_bytes // row_bytes)
        if wanted.rows == "all":
            itemsize, top_k = 2 if wanted.dtype == "float16" else 4, self._top_k(wanted)
            width = model.vocab_size if self._bundle.head is None else model.hidden_size
            answer_bytes = itemsize * width
            if top_k:  # each with its index, and the row's log-sum-exp
                answer_bytes = (itemsize + 4) * top_k + 4
            rows = min(rows, limits.max_logits_bytes // answer_bytes)
        if rows < 1:
            raise RequestError("not even one row fits into the server's limits")
        return rows

    def step(
        self, token_ids: Sequence[int], position: int, wanted: LogitsWanted, *, echo: bool
    ) -> InferRequest:
        """The request that adds some tokens at a position."""
        dtype = WIRE_TYPES[wanted.dtype]
        hidden_states = encode(self._bundle.masked_embeddings(token_ids), self._wire_type)
        logits = LogitsRequest(rows=_ROWS[wanted.rows], dtype=dtype, top_k=self._top_k(wanted))
        return InferRequest(
            step=Step(position=position, hidden_states=hidden_states, logits=logits, echo=echo)
        )

    def _top_k(self, wanted: LogitsWanted) -> int:
        """What to ask of the server, which knows no logits where the head is the client's."""
        return wanted.top_k if self._bundle.head is None else 0

    def since_last_receipt(self) -> float:
        """Seconds since the last response was taken."""
        return perf_counter() - self._last_receipt

    def mark_receipt(self) -> float:
        """Remember now as the time of the last response; returns it."""
        self._last_receipt = perf_counter()
        return self._last_receipt


class Forward:
    """One forward call: yields its requests, takes their results, and puts the reply together.

    When the last of several chunks is all that is asked for, earlier chunks ask for no logits.
    """

    def __init__(
        self,
        core: SessionCore,
        token_ids: Sequence[int],
        wanted: LogitsWanted,
        *,
        start: int,
        echo: bool = False,
    ) -> None:
        """`start`: the number of tokens that precede these."""
        self._core = core
        self._start = start
        self._token_ids = token_ids
        self._wanted = wanted
        self._echo = echo
        self._results: list[StepResult] = []
        self._client_seconds = self._head_seconds = 0.0
        self._bytes_up = self._bytes_down = 0
        self._sent_at: float | None = None
        self._received_at = 0.0

    def requests(self) -> Iterator[InferRequest]:
        """The requests in order; each is made when it is asked for."""
        core, count = self._core, len(self._token_ids)
        size = core.chunk_rows(self._wanted)
        nothing = LogitsWanted("none")
        for start in range(0, count, size):
            stop = min(start + size, count)
            partial = self._wanted.rows != "all" and stop < count
            request = core.step(
                self._token_ids[start:stop],
                self._start + start,
                nothing if partial else self._wanted,
                echo=self._echo and start == 0,
            )
            if self._sent_at is None:
                self._client_seconds = core.since_last_receipt()
                self._sent_at = perf_counter()
            self._bytes_up += FRAME_BYTES + request.ByteSize()
            yield request

    def take(self, response: InferResponse) -> None:
        """Take the response to the next request."""
        if response.WhichOneof("response") != "result":
            raise ServerError("the server did not answer a step with its result")
        self._received_at = self._core.mark_receipt()
        self._bytes_down += FRAME_BYTES + response.ByteSize()
        self._results.append(response.result)

    def finish(self) -> Reply:
        """The reply, once every request has its response; the session holds the tokens then."""
        core, results = self._core, self._results
        end = self._start + len(self._token_ids)
        if results[-1].length != end:
            raise ServerError(f"the server holds {results[-1].length} tokens instead of {end}")
        logits = self.logits
        core.tokens[self._start :] = self._token_ids
        core.held = end
        queue = results[0].timings.queue_nanos / 1e9
        compute = sum(result.timings.compute_nanos for result in results) / 1e9
        round_trip = self._received_at - (self._sent_at or self._received_at)
        profile = StepProfile(
            rows=len(self._token_ids),
            client=self._client_seconds,
            wire=max(0.0, round_trip - queue - compute),
            queue=queue,
            compute=compute,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            head=self._head_seconds,
        )
        return Reply(logits, profile, tuple(results[0].received))

    @cached_property
    def logits(self) -> LogitsArrays | None:
        """The logits that were asked for, in vocabulary order, once every request has its response.

        Takes long where the client makes them itself, and may then be read on another thread.
        """
        if self._wanted.rows == "none":
            return None
        bundle, model = self._core.bundle, self._core.bundle.manifest.model
        rows = 1 if self._wanted.rows == "last" else len(self._token_ids)
        if bundle.head is not None:
            states = [
                decode_hidden_states(each.hidden_states, model.hidden_size)
                for each in self._results
                if each.HasField("hidden_states")
            ]
            self._check_rows(rows, states)
            begun = perf_counter()
            own = bundle.head.logits(np.concatenate(states))
            self._head_seconds = perf_counter() - begun
            if not np.isfinite(own).all():
                raise ServerError("the server sent hidden states that make no finite logits")
            return LogitsArrays(own)
        width = self._wanted.top_k or model.vocab_size
        parts = [
            decode_logits(each.logits, width, model.vocab_size)
            for each in self._results
            if each.HasField("logits")
        ]
        self._check_rows(rows, [part.values for part in parts])
        logits = parts[0] if len(parts) == 1 else _joined(parts)
        return logits if bundle.vocabulary is None else bundle.vocabulary.open(logits)

    @staticmethod
    def _check_rows(rows: int, parts: Sequence[NDArray[Any]]) -> None:
        if sum(map(len, parts)) != rows:
            raise ServerError("the server did not send the logits that were asked for")


def _joined(parts: Sequence[LogitsArrays]) -> LogitsArrays:
    values = np.concatenate([part.values for part in parts])
    indices = [part.indices for part in parts if part.indices is not None]
    sums = [part.log_sum_exp for part in parts if part.log_sum_exp is not None]
    if not indices:
        return LogitsArrays(values)
    return LogitsArrays(values, np.concatenate(indices), np.concatenate(sums))
