"""A session whatever becomes of its connection: the core of Session and AsyncSession.

A broken stream is resumed. Where the session or its server is gone, another is opened in its place,
on the next server of the client's list, and is sent the tokens that came before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stip.v1.errors_pb2 import ErrorReason
from stip.v1.inference_pb2 import InferRequest
from stip_client.errors import (
    ClientError,
    ConnectionLostError,
    RequestError,
    ServerBusyError,
    SessionLostError,
    WrongKeyError,
    reason_name,
)
from stip_client.session.driver import Steps, T
from stip_client.session.generation import Generation, Piece
from stip_client.session.generation_options import GenerationParameters
from stip_client.session.session_core import Forward, LogitsWanted, Reply, SessionCore
from stip_client.transport.backoff import Backoff
from stip_client.transport.endpoint import CLOSE_TIMEOUT, Endpoint

if TYPE_CHECKING:
    from stip_client.session.base_client import BaseClient

# Reasons for which a fork's source does not hold what it should, since it is being restored itself.
FORK_LOST = (
    reason_name(ErrorReason.ERROR_REASON_POSITION_BEYOND_END),
    reason_name(ErrorReason.ERROR_REASON_NO_FORK_SOURCE),
)
DRAINING = reason_name(ErrorReason.ERROR_REASON_DRAINING)
TAKEN_OVER = reason_name(ErrorReason.ERROR_REASON_TAKEN_OVER)

log = logging.getLogger(__name__)


class Stream(Protocol):
    """One Infer call. What waits returns a result or an awaitable of one (waiting.py)."""

    def send(self, request: InferRequest, timeout: float) -> Any:
        """Send a request. Raises ClientError where the stream has ended, or does not take it in
        time."""

    def receive(self, timeout: float) -> Any:
        """The next InferResponse. Raises ClientError for the stream's end or a time-out."""

    def finish(self, request: InferRequest, timeout: float) -> Any:
        """Send the last request and wait for the server to end the stream."""

    def cancel(self) -> None:
        """Give the stream up."""


class BaseSession:
    """What both kinds of session share. Methods that wait are generators (waiting.py)."""

    def __init__(self, core: SessionCore, client: BaseClient[Any]) -> None:
        """Made by a client."""
        self._core = core
        self._client = client
        self._stream: Stream | None = None
        # where the session is, once it has been opened
        self._endpoint: Endpoint | None = None
        # whether every request on the stream has been answered
        self._settled = True
        self._reachable = True
        self._closed = False

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return self._core.position

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the session holds."""
        return tuple(self._core.tokens)

    @property
    def max_length(self) -> int:
        """The number of tokens the session may hold."""
        return self._core.max_length

    def rollback(self, position: int) -> None:
        """Forget the tokens from `position` on; the next forward call continues from there."""
        self._core.rollback(position)

    def _values(self, reply: Reply) -> NDArray[np.float32]:
        if reply.logits is None:
            return np.empty((0, self._core.vocab_size), np.float32)
        return reply.logits.values

    def _generation(self, prompt: Sequence[int], parameters: GenerationParameters) -> Generation:
        """The reply to some more tokens."""
        return Generation(self._core.bundle, [*self._core.tokens, *prompt], parameters)

    # -- opening ---------------------------------------------------------------------------------

    def _opening(self, wait: float) -> Steps[None]:
        """Open the session for the first time, on the first server that takes it.

        `wait` seconds may pass until one has room.
        """
        backoff, servers = Backoff(wait).begin(), len(self._client.targets)
        seconds = backoff.left if servers == 1 else 0.0  # another one may have room at once
        while True:
            try:
                yield from self._open_anywhere(seconds)
                return
            except (SessionLostError, ConnectionLostError, RequestError) as error:
                lost = not isinstance(error, RequestError) or error.reason in FORK_LOST
                if not (lost and self._core.forks) or self._client.patience <= 0:
                    raise
                self._core.begin_anew()  # what was to be shared is sent instead
            except ServerBusyError as error:
                if error.retry_after is None:
                    raise
                yield self._client._sleep(backoff.pause(error, elsewhere=seconds == 0.0))
                seconds = backoff.left / servers

    def _open_anywhere(self, wait: float) -> Steps[None]:
        targets = self._client.targets
        for left in reversed(range(len(targets))):
            # a fork shares what its own server holds
            endpoint = self._endpoint if self._core.forks else None
            try:
                yield from self._attach(endpoint or targets.current, wait)
                return
            except (ConnectionLostError, ServerBusyError):
                if endpoint is not None or not left:
                    raise
                targets.leave(targets.current)
                self._core.begin_anew()  # it may have been opened there before it was lost

    def _attach(self, endpoint: Endpoint, wait: float = 0.0) -> Steps[None]:
        """Open or resume the session on a stream of its own; nothing if it is open.

        The server then holds all its tokens.
        """
        if self._closed:
            raise RequestError("the session is closed")
        if self._stream is not None and self._settled:
            return
        self._drop_stream()
        wait = 0.0 if self._core.session_id else wait
        stream = self._client._stream(endpoint)
        try:
            timeout = endpoint.connect_timeout
            yield stream.send(self._core.open_request(wait), timeout)
            self._core.take_opened((yield stream.receive(timeout + wait)))
        except BaseException:
            stream.cancel()
            raise
        # not settled before it holds what it should
        self._settled = False
        self._stream, self._endpoint, self._reachable = stream, endpoint, True
        if self._core.held < self._core.position:
            yield from self._exchange(self._core.replay())
        self._settled = True

    def _reattach(self) -> Steps[None]:
        """Resume the session, or open it anew on the server that the client uses now."""
        endpoint = self._endpoint
        if endpoint is None or not self._core.session_id:
            endpoint = self._client.targets.current
        yield from self._attach(endpoint)

    # -- steps -----------------------------------------------------------------------------------

    def _step(
        self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False
    ) -> Steps[Reply]:
        def step() -> Steps[Reply]:
            return self._exchange(self._core.forward(token_ids, wanted, echo=echo))

        return (yield from self._recovering(step))

    def _open(self) -> Steps[None]:
        """Resume the session, where its stream is broken."""

        def nothing() -> Steps[None]:
            yield from ()

        yield from self._recovering(nothing)

    def _recovering(self, action: Callable[[], Steps[T]]) -> Steps[T]:
        """What an action on the open session returns, repeated while that may help."""
        backoff = Backoff(self._client.patience)
        while True:
            try:
                yield from self._reattach()
                return (yield from action())
            except ClientError as error:
                seconds = self._recover(error, backoff)
                yield self._client._sleep(seconds)

    def _exchange(self, forward: Forward) -> Steps[Reply]:
        stream, timeout = self._stream, self._client.timeout
        assert stream is not None  # attached
        self._settled = False
        try:
            requests = forward.requests()
            in_flight = 0
            for request in islice(requests, self._core.steps_in_flight):
                yield stream.send(request, timeout)
                in_flight += 1
            while in_flight:
                forward.take((yield stream.receive(timeout)))
                in_flight -= 1
                for request in islice(requests, 1):
                    yield stream.send(request, timeout)
                    in_flight += 1
            if self._core.bundle.head is not None:
                yield self._client._work(lambda: forward.logits)
            reply = forward.finish()
        except ClientError as error:
            # neither a server that is away nor a session that is gone has anything to close
            self._reachable = not isinstance(error, (ConnectionLostError, SessionLostError))
            self._drop_stream()
            raise
        self._settled = True
        return reply

    def _recover(self, error: ClientError, backoff: Backoff) -> float:
        """Prepare another attempt; the seconds to wait before it. Raises `error` where none is
        worth while."""
        targets, endpoint = self._client.targets, self._endpoint
        if self._closed:
            raise error
        gone = isinstance(error, SessionLostError) and error.reason != TAKEN_OVER
        lost = isinstance(error, ConnectionLostError)
        # met while it was opened in place of a lost one
        unwilling = not self._core.session_id and (
            isinstance(error, ServerBusyError)
            or (isinstance(error, WrongKeyError) and len(targets) > 1)
        )
        if not (gone or lost or unwilling):
            raise error
        first = not backoff.begun
        # a server's word counts once all have been tried
        untried = (backoff.attempts + 1) % len(targets) != 0
        seconds = backoff.pause(error, elsewhere=gone or untried)
        log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s; trying again for up to %.0f s",
            error,
            backoff.left,
        )
        if gone:
            self._core.begin_anew()
            return 0.0 if first else seconds
        if lost and first and error.reason != DRAINING:
            return 0.0  # it may be the connection alone: the session is there to be resumed
        if len(targets) > 1:
            at = endpoint if self._core.session_id and endpoint is not None else targets.current
            targets.leave(at)
            if targets.current is not at:
                self._core.begin_anew()
                return 0.0 if backoff.attempts <= len(targets) else seconds
        return seconds

    def _advance(self, generation: Generation) -> Steps[list[Piece]]:
        """The pieces that one step brings; none where the reply is finished."""
        while (step := generation.next_step(self.position, self.max_length)) is not None:
            start = self.position
            reply = yield from self._step(step.token_ids, step.wanted, echo=generation.echo)
            pieces, kept = generation.take(reply)
            self.rollback(start + kept)
            if pieces:
                return pieces
        return []

    # -- the end ---------------------------------------------------------------------------------

    def _close(self) -> Steps[None]:
        try:
            if not self._settled:
                self._drop_stream()
            if self._stream is None and self._reachable and not self._closed:
                yield from self._attach_to_close()
            if self._stream is not None:
                yield self._stream.finish(self._core.close_request(), CLOSE_TIMEOUT)
        except ClientError:
            pass  # the connection or the session is gone, and with it all there was to close
        finally:
            self._closed = True
            self._drop_stream()
            self._client._forget(self)

    def _attach_to_close(self) -> Steps[None]:
        """Resume the session only for its end: within a short time, sending nothing again."""
        endpoint = self._endpoint
        if endpoint is None or not self._core.session_id:
            return
        stream = self._client._stream(endpoint)
        try:
            yield stream.send(self._core.open_request(), CLOSE_TIMEOUT)
            yield stream.receive(CLOSE_TIMEOUT)
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._settled = True
