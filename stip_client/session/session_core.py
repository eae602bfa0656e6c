"""One session's side of the protocol, without any I/O."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from stip.v1.inference_pb2 import (
    CloseSession,
    ForkPoint,
    InferRequest,
    InferResponse,
    Limits,
    OpenSession,
)
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import ContextOverflowError, RequestError, ServerError
from stip_client.session.forward_call import NO_LOGITS, ForwardCall, ForwardResult, LogitsForm
from stip_client.transport.wire_tensors import WIRE_TYPES

CLOSE_REQUEST = InferRequest(close=CloseSession())


class SessionCore:
    """The id, the limits and the tokens of a session; makes its requests, takes its responses.

    `tokens` precede the next forward call. A failed call leaves them as they were, and the next
    call may resume the session on a new stream. The server holds at least the first `held` of them;
    the others must be sent again.
    """

    def __init__(
        self,
        bundle: ClientBundle,
        *,
        dtype: str = "float16",
        max_length: int = 0,
        tokens: Sequence[int] = (),
        fork_point: ForkPoint | None = None,
    ) -> None:
        """max_length, in tokens; 0 leaves it to the server. Raises ValueError for another dtype."""
        if dtype not in WIRE_TYPES:
            raise ValueError(f"dtype {dtype!r} is none of {', '.join(WIRE_TYPES)}")
        self.bundle = bundle
        self.session_id = b""
        self.tokens = list(tokens)
        self.held = 0
        self.max_length = 0
        self._dtype = dtype
        self._requested_length = max_length
        self._fork_point = fork_point
        self._limits = Limits()
        self._last_received_at = perf_counter()

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return len(self.tokens)

    @property
    def vocab_size(self) -> int:
        """The width of a whole row of logits."""
        size: int = self.bundle.manifest.model.vocab_size
        return size

    @property
    def steps_in_flight(self) -> int:
        """How many steps may be unanswered at once."""
        return max(1, self._limits.max_steps_in_flight)

    # -- opening and closing ---------------------------------------------------------------------

    def open_request(self, wait: float = 0.0) -> InferRequest:
        """The first request of a stream: opens the session, or resumes it after a broken stream.

        wait: seconds for which the server may look for room for a new session.
        """
        manifest = self.bundle.manifest
        request = OpenSession(
            key_id=manifest.key_id, bundle_id=manifest.bundle_id, head=manifest.head
        )
        if self.session_id:
            request.resume_session_id = self.session_id
        else:
            request.max_length = self._requested_length
            request.wait_millis = round(wait * 1000)
            if self._fork_point is not None:
                request.fork.CopyFrom(self._fork_point)
        return InferRequest(open=request)

    def accept_opened(self, response: InferResponse) -> None:
        """Take the response to open_request. Raises ServerError for another response."""
        if response.WhichOneof("response") != "opened":
            raise ServerError("the server did not answer the open request")
        opened = response.opened
        self.session_id = opened.session_id
        self.held = min(opened.length, self.position)
        self.max_length = opened.max_length
        self._limits = opened.limits

    def forget_session(self) -> None:
        """The session is lost: the next open request opens another in its place."""
        self.session_id, self.held, self._fork_point = b"", 0, None
        self._requested_length = self.max_length or self._requested_length

    # -- forks -----------------------------------------------------------------------------------

    @property
    def is_fork(self) -> bool:
        """Whether the open request will share the tokens of another session."""
        return self._fork_point is not None and not self.session_id

    def fork(self, length: int | None, *, max_length: int = 0) -> SessionCore:
        """The core of a session that begins with this one's first `length` tokens (None: all).

        max_length 0 is this session's. Raises RequestError beyond the end.
        """
        length = self.position if length is None else length
        if not 0 <= length <= self.position:
            raise RequestError(
                f"cannot fork {length} tokens: the session holds {self.position} tokens"
            )
        # On the wire, length 0 means all tokens. Tokens that the server does not hold at present
        # are sent.
        fork_point = None
        if length and self.session_id and self.held >= length:
            fork_point = ForkPoint(session_id=self.session_id, length=length)
        return self.copy(self.tokens[:length], max_length or self.max_length, fork_point)

    def copy(
        self, tokens: Sequence[int], max_length: int, fork_point: ForkPoint | None = None
    ) -> SessionCore:
        """The core of another session with the same bundle, which shall hold some tokens."""
        return SessionCore(
            self.bundle,
            dtype=self._dtype,
            max_length=max_length,
            tokens=tokens,
            fork_point=fork_point,
        )

    # -- tokens ----------------------------------------------------------------------------------

    def rollback(self, position: int) -> None:
        """Continue from `position`; costs no round trip. Raises RequestError beyond the end."""
        if not 0 <= position <= self.position:
            raise RequestError(
                f"cannot roll back to {position}: the session holds {self.position} tokens"
            )
        del self.tokens[position:]

    def forward(
        self, token_ids: Sequence[int], form: LogitsForm, *, echo: bool = False
    ) -> ForwardCall:
        """A call that adds some tokens. Raises RequestError or ContextOverflowError."""
        if len(token_ids) == 0:
            raise RequestError("no tokens to forward")
        end = self.position + len(token_ids)
        if end > self.max_length:
            raise ContextOverflowError(
                f"{end} tokens are beyond the session's maximum of {self.max_length}"
            )
        return self._call(token_ids, form, start=self.position, echo=echo)

    def replay(self) -> ForwardCall:
        """A call that sends again the tokens that the server does not hold."""
        return self._call(self.tokens[self.held :], NO_LOGITS, start=self.held)

    def finish(self, call: ForwardCall) -> ForwardResult:
        """The result of an answered call; the session holds its tokens from now on.

        Raises ServerError for nonsense, and then holds what it held.
        """
        result = call.result()
        self.tokens[call.start :] = call.token_ids
        self.held = call.end
        self._last_received_at = call.received_at
        return result

    def _call(
        self, token_ids: Sequence[int], form: LogitsForm, *, start: int, echo: bool = False
    ) -> ForwardCall:
        return ForwardCall(
            self.bundle,
            self._limits,
            token_ids,
            form,
            start=start,
            dtype=WIRE_TYPES[self._dtype],
            idle_since=self._last_received_at,
            echo=echo,
        )
