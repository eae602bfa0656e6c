"""A session that outlives its connection: the session of both clients.

A broken stream is resumed. If the session or its server is lost, another session is opened in its
place, on the next server of the client's list, and is sent the tokens that came before.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from stip.v1.errors_pb2 import ErrorReason
from stip_client.errors import (
    ClientError,
    ConnectionLostError,
    RequestError,
    ServerBusyError,
    SessionLostError,
    WrongKeyError,
    reason_name,
)
from stip_client.session.forward_call import ForwardResult, LogitsForm, RowsName
from stip_client.session.generation import Generation, Piece
from stip_client.session.generation_options import GenerationParameters
from stip_client.session.pending_session import PendingSession
from stip_client.session.session_core import SessionCore
from stip_client.session.session_stream import SessionStream
from stip_client.transport.backoff import Backoff
from stip_client.transport.endpoint import Endpoint
from stip_client.transport.interface import Transport
from stip_client.transport.targets import Targets

T = TypeVar("T")

# Reasons for which a fork's source does not hold its tokens: it is being restored itself.
SOURCE_LOST = (
    reason_name(ErrorReason.ERROR_REASON_POSITION_BEYOND_END),
    reason_name(ErrorReason.ERROR_REASON_NO_FORK_SOURCE),
)
DRAINING = reason_name(ErrorReason.ERROR_REASON_DRAINING)
TAKEN_OVER = reason_name(ErrorReason.ERROR_REASON_TAKEN_OVER)

log = logging.getLogger(__name__)


class Owner(Protocol):
    """What a session needs of its client. `timeout` and `patience` are in seconds."""

    transport: Transport
    targets: Targets
    timeout: float
    patience: float

    async def fork(
        self, source: AsyncSession, length: int | None, max_length: int, wait: float
    ) -> AsyncSession:
        """A session that begins with the first `length` tokens of another (None: all)."""
        ...

    def forget(self, session: AsyncSession) -> None:
        """The session is closed."""


class AsyncSession:
    """`Session` for asyncio: the same methods, awaited."""

    def __init__(self, core: SessionCore, owner: Owner, endpoint: Endpoint | None = None) -> None:
        """Made by a client. endpoint: the server that a fork's source is on."""
        self.core = core
        self._owner = owner
        self._stream = SessionStream(core, owner.transport, owner.timeout, endpoint)
        self._closed = False

    # -- the public library ----------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return self.core.position

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the session holds."""
        return tuple(self.core.tokens)

    @property
    def max_length(self) -> int:
        """The number of tokens that the session may hold."""
        return self.core.max_length

    def rollback(self, position: int) -> None:
        """Forget the tokens from `position` on; the next forward call continues from there."""
        self.core.rollback(position)

    async def open(self) -> None:
        """Resume the session after a broken stream; nothing if it is open."""

        async def nothing() -> None:
            pass

        await self._recovering(nothing)

    async def forward(
        self, token_ids: Sequence[int], *, rows: RowsName = "all"
    ) -> NDArray[np.float32]:
        """As `Session.forward`."""
        result = await self.step(token_ids, LogitsForm(rows))
        if result.logits is None:
            return np.empty((0, self.core.vocab_size), np.float32)
        return result.logits.values

    async def step(
        self, token_ids: Sequence[int], form: LogitsForm, *, echo: bool = False
    ) -> ForwardResult:
        """As `Session.step`."""
        return await self._recovering(
            lambda: self._stream.exchange(self.core.forward(token_ids, form, echo=echo))
        )

    async def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters | None = None
    ) -> AsyncGenerator[Piece, None]:
        """As `Session.generate`."""
        tokens = [*self.core.tokens, *prompt]
        generation = Generation(self.core.bundle, tokens, parameters or GenerationParameters())
        while pieces := await self.advance(generation):
            for piece in pieces:
                yield piece

    def fork(
        self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0
    ) -> PendingSession[AsyncSession]:
        """As `Session.fork`: await it, or use it in `async with`."""
        return PendingSession(self._owner.fork(self, length, max_length, wait))

    async def close(self) -> None:
        """As `Session.close`."""
        try:
            await self._stream.close()
        finally:
            self._closed = True
            self._owner.forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- for the client --------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint | None:
        """The server that the session is on."""
        return self._stream.endpoint

    async def open_new(self, wait: float) -> None:
        """Open the session for the first time, on the first server that takes it.

        wait: seconds that may pass until a server has room. Raises ClientError.
        """
        backoff, servers = Backoff(wait).begin(), len(self._owner.targets)
        seconds = backoff.left if servers == 1 else 0.0  # another one may have room at once
        while True:
            try:
                await self._open_anywhere(seconds)
                return
            except (SessionLostError, ConnectionLostError, RequestError) as error:
                lost = not isinstance(error, RequestError) or error.reason in SOURCE_LOST
                if not (lost and self.core.is_fork) or self._owner.patience <= 0:
                    raise
                self.core.forget_session()  # the tokens that could not be shared are sent
            except ServerBusyError as error:
                if error.retry_after is None:
                    raise
                pause = backoff.pause(error, elsewhere=seconds == 0.0)
                await self._owner.transport.sleep(pause)
                seconds = backoff.left / servers

    async def advance(self, generation: Generation) -> list[Piece]:
        """The pieces that one step brings; none where the reply is finished."""
        while (step := generation.next_step(self.position, self.max_length)) is not None:
            start = self.position
            result = await self.step(step.token_ids, step.form, echo=generation.echo)
            pieces, kept = generation.add_result(result)
            self.rollback(start + kept)
            if pieces:
                return pieces
        return []

    async def _open_anywhere(self, wait: float) -> None:
        targets = self._owner.targets
        for left in reversed(range(len(targets))):
            # a fork shares what its own server holds
            endpoint = self.endpoint if self.core.is_fork else None
            try:
                await self._attach(endpoint or targets.current, wait)
                return
            except (ConnectionLostError, ServerBusyError):
                if endpoint is not None or not left:
                    raise
                targets.leave(targets.current)
                self.core.forget_session()  # it may have been opened there before it was lost

    async def _attach(self, endpoint: Endpoint, wait: float = 0.0) -> None:
        if self._closed:
            raise RequestError("the session is closed")
        await self._stream.attach(endpoint, wait)

    # -- recovery --------------------------------------------------------------------------------

    async def _recovering(self, action: Callable[[], Awaitable[T]]) -> T:
        """The result of an action on the open session, repeated while that may help."""
        backoff = Backoff(self._owner.patience)
        while True:
            try:
                endpoint = self.endpoint if self.core.session_id else None
                await self._attach(endpoint or self._owner.targets.current)
                return await action()
            except ClientError as error:
                seconds = self._recover(error, backoff)
            await self._owner.transport.sleep(seconds)

    def _recover(self, error: ClientError, backoff: Backoff) -> float:
        """Prepare another attempt; the seconds to wait before it.

        Raises `error` if another attempt cannot help.
        """
        targets, endpoint = self._owner.targets, self.endpoint
        if self._closed:
            raise error
        gone = isinstance(error, SessionLostError) and error.reason != TAKEN_OVER
        lost = isinstance(error, ConnectionLostError)
        # met while another was opened in place of a lost session
        unwilling = not self.core.session_id and (
            isinstance(error, ServerBusyError)
            or (isinstance(error, WrongKeyError) and len(targets) > 1)
        )
        if not (gone or lost or unwilling):
            raise error
        first = not backoff.begun
        # the pause that a server asks for counts once every server has been tried
        untried = (backoff.attempts + 1) % len(targets) != 0
        seconds = backoff.pause(error, elsewhere=gone or untried)
        log.log(
            logging.WARNING if first else logging.DEBUG,
            "%s; trying again for up to %.0f s",
            error,
            backoff.left,
        )
        if gone:
            self.core.forget_session()
            return 0.0 if first else seconds
        if lost and first and error.reason != DRAINING:
            return 0.0  # perhaps only the connection was lost, and the session can be resumed
        if len(targets) > 1:
            at = endpoint if self.core.session_id and endpoint is not None else targets.current
            targets.leave(at)
            if targets.current is not at:
                self.core.forget_session()
                return 0.0 if backoff.attempts <= len(targets) else seconds
        return seconds
