"""The session of the asynchronous client; the synchronous one completes its coroutines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stip_client.session.forward_call import ForwardResult, LogitsForm, RowsName
from stip_client.session.generation import Generation, Piece
from stip_client.session.generation_options import GenerationParameters
from stip_client.session.pending_session import PendingSession
from stip_client.session.recovering_session import RecoveringSession


class AsyncSession:
    """`Session` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        session: RecoveringSession,
        fork: Callable[
            [RecoveringSession, int | None, int, float], Coroutine[Any, Any, AsyncSession]
        ],
    ) -> None:
        """Made by a client. fork: opens a fork from a session, length, max_length and wait."""
        self._session = session
        self._core = session.core
        self._fork = fork

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
        """The number of tokens that the session may hold."""
        return self._core.max_length

    def rollback(self, position: int) -> None:
        """As `Session.rollback`."""
        self._core.rollback(position)

    async def open(self) -> None:
        """As `Session.open`."""
        await self._session.open()

    async def forward(
        self, token_ids: Sequence[int], *, rows: RowsName = "all"
    ) -> NDArray[np.float32]:
        """As `Session.forward`."""
        result = await self.step(token_ids, LogitsForm(rows))
        if result.logits is None:
            return np.empty((0, self._core.vocab_size), np.float32)
        return result.logits.values

    async def step(
        self, token_ids: Sequence[int], form: LogitsForm, *, echo: bool = False
    ) -> ForwardResult:
        """As `Session.step`."""
        return await self._session.step(token_ids, form, echo=echo)

    async def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters | None = None
    ) -> AsyncGenerator[Piece, None]:
        """As `Session.generate`."""
        tokens = [*self._core.tokens, *prompt]
        generation = Generation(self._core.bundle, tokens, parameters or GenerationParameters())
        while pieces := await self._session.advance(generation):
            for piece in pieces:
                yield piece

    def fork(
        self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0
    ) -> PendingSession[AsyncSession]:
        """As `Session.fork`: await it, or use it in `async with`."""
        return PendingSession(self._fork(self._session, length, max_length, wait))

    async def close(self) -> None:
        """As `Session.close`."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
