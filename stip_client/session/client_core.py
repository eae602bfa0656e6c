"""The client over any transport: a bundle, the servers that serve it, and sessions with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from stip.v1.inference_pb2 import GetModelInfoResponse, Limits
from stip_client.bundle.chat_template import Message
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.bundle.prompt import Prompt, encode_prompt
from stip_client.errors import ConnectionLostError, ServerBusyError, SessionLostError
from stip_client.session.async_session import AsyncSession
from stip_client.session.generation import Generation, Piece
from stip_client.session.generation_options import Options, generation_parameters
from stip_client.session.pending_session import PendingSession
from stip_client.session.recovering_session import RecoveringSession
from stip_client.session.session_core import SessionCore
from stip_client.session.session_pool import SessionPool, SharedPrefix
from stip_client.transport.credentials import TLS
from stip_client.transport.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, PATIENCE, Endpoint
from stip_client.transport.interface import Transport
from stip_client.transport.targets import Targets

# How many conversations are kept at once.
MAX_CONVERSATIONS = 8


class ClientSettings(TypedDict, total=False):
    """The keyword arguments of both clients; ClientCore has their defaults."""

    dtype: str
    connect_timeout: float
    timeout: float
    patience: float
    max_conversations: int
    tls: TLS | None
    token: str | None
    insecure: bool
    verify_key: str | Path | None


class ClientCore:
    """The methods of `Client`, as coroutines over any transport."""

    def __init__(
        self,
        transport: Transport,
        target: str | Sequence[str],
        bundle: str | Path,
        *,
        dtype: str = "float16",
        connect_timeout: float = CONNECT_TIMEOUT,
        timeout: float = ANSWER_TIMEOUT,
        patience: float = PATIENCE,
        max_conversations: int = MAX_CONVERSATIONS,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        verify_key: str | Path | None = None,
    ) -> None:
        self.bundle = ClientBundle(
            Path(bundle), verify_key=None if verify_key is None else Path(verify_key)
        )
        self.targets = Targets(
            target, tls=tls, token=token, insecure=insecure, connect_timeout=connect_timeout
        )
        self._transport = transport
        self._dtype = dtype
        self._make_session = partial(
            RecoveringSession,
            transport=transport,
            targets=self.targets,
            timeout=timeout,
            patience=patience,
            on_close=self._forget,
        )
        self._sessions: set[RecoveringSession] = set()
        self._pool = SessionPool(max_conversations)
        self._limits: Limits | None = None

    # -- the public library ----------------------------------------------------------------------

    async def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        for left in reversed(range(len(self.targets))):
            endpoint = self.targets.current
            try:
                info = await self._transport.model_info(endpoint)
            except ConnectionLostError:
                if not left:
                    raise
                self.targets.leave(endpoint)
            else:
                self._limits = info.limits
                return info
        raise AssertionError("there is at least one target")

    def session(self, *, max_length: int = 0, wait: float = 0.0) -> PendingSession[AsyncSession]:
        """Open a session, as `Client.session`: await it, or use it in `async with`."""
        return PendingSession(self._open_public(max_length, wait))

    async def generate(
        self, prompt: Prompt, *, raw: bool = False, keep: bool = False, **options: Unpack[Options]
    ) -> AsyncGenerator[Piece, None]:
        """Generate a reply, piece by piece; as `Client.generate`."""
        session, generation = await self._begin(prompt, options, raw=raw, keep=keep)
        try:
            while pieces := await session.advance(generation):
                for piece in pieces:
                    yield piece
        except SessionLostError:
            await session.close()
            raise
        finally:
            # a session that is kept may be continued
            if not session.core.position or not self._pool.release(session):
                await session.close()

    def chat(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> AsyncGenerator[Piece, None]:
        """Generate the reply to a conversation; as `Client.chat`."""
        return self.generate(messages, keep=True, **options)

    async def close(self) -> None:
        """Close every session that is still open, and the connections."""
        for session in list(self._sessions):
            await session.close()
        await self._transport.close()

    # -- sessions --------------------------------------------------------------------------------

    async def _open_public(self, max_length: int, wait: float) -> AsyncSession:
        session = await self._open_session(self._new_core(max_length), wait)
        return AsyncSession(session, self._fork_public)

    async def _fork_public(
        self, source: RecoveringSession, length: int | None, max_length: int, wait: float
    ) -> AsyncSession:
        session = await self._fork(source, length, max_length, wait)
        return AsyncSession(session, self._fork_public)

    async def _fork(
        self, source: RecoveringSession, length: int | None, max_length: int, wait: float
    ) -> RecoveringSession:
        """Open a session that begins with the first `length` tokens of another (None: all)."""
        core = source.core.fork(length, max_length=max_length)
        shared, source_id = list(core.tokens), source.core.session_id
        session = await self._open_session(core, wait, source.endpoint)
        # While the fork waited for room, the source may have gone on with other tokens. The server
        # then forked those.
        if source.core.tokens[: len(shared)] == shared and source.core.session_id == source_id:
            return session
        await session.close()
        return await self._open_session(source.core.copy(shared, core.max_length), wait)

    def _forget(self, session: RecoveringSession) -> None:
        self._sessions.discard(session)
        self._pool.discard(session)

    def _new_core(self, max_length: int) -> SessionCore:
        return SessionCore(self.bundle, dtype=self._dtype, max_length=max_length)

    async def _open_session(
        self, core: SessionCore, wait: float, endpoint: Endpoint | None = None
    ) -> RecoveringSession:
        """A new session; a fork's `endpoint` is that of its source.

        If the server has no room, idle conversations are closed to make some.
        """
        session = self._make_session(core, endpoint)
        self._sessions.add(session)
        try:
            while True:
                seconds = 0.0 if self._pool.has_idle else wait
                try:
                    await session.open_new(seconds)
                    return session
                except ServerBusyError as error:
                    if error.retry_after is None:  # it will never fit
                        raise
                    if (idle := self._pool.evict()) is not None:
                        await idle.close()
                    elif seconds == wait:
                        raise
        except BaseException:
            await session.close()
            raise

    async def _begin(
        self, prompt: Prompt, options: Options, *, raw: bool, keep: bool
    ) -> tuple[RecoveringSession, Generation]:
        """A session for a reply, and the reply to generate in it."""
        parameters = generation_parameters(options)
        wait = options.get("wait", 0.0)
        tokens = encode_prompt(self.bundle, prompt, raw=raw)
        limits = self._limits or (await self.model_info()).limits
        needed = min(len(tokens) + parameters.max_new_tokens, limits.max_length)
        generation = Generation(self.bundle, tokens, parameters)
        if keep:
            return await self._conversation(tokens, needed, limits, wait), generation
        return await self._open_session(self._new_core(needed), wait), generation

    async def _conversation(
        self, tokens: list[int], needed: int, limits: Limits, wait: float
    ) -> RecoveringSession:
        """A kept session that holds a beginning of the prompt, or a new one.

        needed: the number of tokens that it must be able to hold.
        """
        prefix = self._pool.claim(tokens)
        claimed = prefix.session if prefix is not None and prefix.continues else None
        if prefix is not None and claimed is not None and claimed.core.max_length >= needed:
            claimed.core.rollback(prefix.length)
            return claimed
        try:
            session = await self._open_conversation(prefix, needed, limits, wait)
        except BaseException:
            if claimed is not None:
                self._pool.release(claimed)
            raise
        if claimed is not None:  # it was too short to go on in
            self._pool.discard(claimed)
            await claimed.close()
        try:
            while not self._pool.add(session) and (idle := self._pool.evict()) is not None:
                await idle.close()
        except BaseException:
            await session.close()
            raise
        return session

    async def _open_conversation(
        self, prefix: SharedPrefix | None, needed: int, limits: Limits, wait: float
    ) -> RecoveringSession:
        """A new session, or a fork that shares `prefix`, with room for the conversation to go on.

        Where the server has no such room, the session holds only what is needed now.
        """

        async def opened(max_length: int, seconds: float) -> RecoveringSession:
            if prefix is None:
                return await self._open_session(self._new_core(max_length), seconds)
            return await self._fork(prefix.session, prefix.length, max_length, seconds)

        wanted = min(max(needed, limits.default_length), limits.max_length)
        if wanted > needed:
            try:
                return await opened(wanted, 0.0)
            except ServerBusyError:
                pass
        return await opened(needed, wait)
