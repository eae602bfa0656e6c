"""What both clients share: everything but waiting (waiting.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from stip.v1.inference_pb2 import GetModelInfoResponse, Limits
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.bundle.prompt import Prompt, encode_prompt
from stip_client.errors import ConnectionLostError, ServerBusyError
from stip_client.session.base_session import BaseSession, Stream
from stip_client.session.driver import Steps
from stip_client.session.generation import Generation
from stip_client.session.generation_options import Options, generation_parameters
from stip_client.session.session_core import SessionCore
from stip_client.session.session_pool import SessionPool
from stip_client.transport.credentials import TLS
from stip_client.transport.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, PATIENCE, Endpoint
from stip_client.transport.targets import Targets

S = TypeVar("S", bound=BaseSession)
# How many conversations are kept at once.
MAX_CONVERSATIONS = 8


class BaseClient(ABC, Generic[S]):
    """A bundle, the servers that may run it, and the sessions with them."""

    def __init__(
        self,
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
        self.timeout = timeout
        self.patience = patience
        self._dtype = dtype
        self._channels: dict[Endpoint, Any] = {}
        self._sessions: set[S] = set()
        self._pool: SessionPool[S] = SessionPool(max_conversations)
        self._limits: Limits | None = None

    # -- what waits, which the two clients do each in its way ------------------------------------

    @abstractmethod
    def _stream(self, endpoint: Endpoint) -> Stream:
        """A stream to a server, which nothing has been sent on."""

    @abstractmethod
    def _ask_for_info(self, endpoint: Endpoint) -> Any:
        """A server's GetModelInfoResponse. Raises ClientError."""

    @abstractmethod
    def _sleep(self, seconds: float) -> Any:
        """Let some time pass."""

    @abstractmethod
    def _work(self, function: Callable[[], object]) -> Any:
        """Call a function that computes for long."""

    @abstractmethod
    def _make_session(self, core: SessionCore) -> S:
        """A session that has not been opened."""

    # -- the rest --------------------------------------------------------------------------------

    def _model_info(self) -> Steps[GetModelInfoResponse]:
        for left in reversed(range(len(self.targets))):
            endpoint = self.targets.current
            try:
                info = cast(GetModelInfoResponse, (yield self._ask_for_info(endpoint)))
            except ConnectionLostError:
                if not left:
                    raise
                self.targets.leave(endpoint)
            else:
                self._limits = info.limits
                return info
        raise AssertionError("there is at least one target")

    def _core(self, max_length: int, wait: float) -> SessionCore:
        return SessionCore(self.bundle, dtype=self._dtype, max_length=max_length, wait=wait)

    def _open_session(self, core: SessionCore, endpoint: Endpoint | None = None) -> Steps[S]:
        """A new session; a fork's `endpoint` is that of its source.

        Conversations that nobody goes on with make room for it, where there is none.
        """
        session = self._make_session(core)
        session._endpoint = endpoint
        self._sessions.add(session)
        try:
            while True:
                wait = 0.0 if self._pool.has_idle else core.wait
                try:
                    yield from session._opening(wait)
                    return session
                except ServerBusyError as error:
                    if error.retry_after is None:  # it will never fit, whoever makes room
                        raise
                    if (idle := self._pool.let_go()) is not None:
                        yield from idle._close()
                    elif wait == core.wait:
                        raise
        except BaseException:
            yield from session._close()
            raise

    def _fork(self, source: S, length: int | None, max_length: int, wait: float) -> Steps[S]:
        core = source._core.fork(length, max_length=max_length, wait=wait)
        shared, source_id = tuple(core.tokens), source._core.session_id
        session = yield from self._open_session(core, source._endpoint)
        # while it waited for room the source may have gone on with other tokens, and been forked so
        if source.tokens[: len(shared)] == shared and source._core.session_id == source_id:
            return session
        yield from session._close()
        return (yield from self._open_session(source._core.copy(shared, core.max_length, wait)))

    def _forget(self, session: BaseSession) -> None:
        """The session is closed."""
        self._sessions.discard(cast(S, session))
        self._pool.forget(cast(S, session))

    # -- replies ---------------------------------------------------------------------------------

    def _begin(
        self, prompt: Prompt, options: Options, *, raw: bool, keep: bool
    ) -> Steps[tuple[S, Generation]]:
        """A session for a reply, and the reply to generate in it."""
        parameters = generation_parameters(options)
        wait = options.get("wait", 0.0)
        tokens = encode_prompt(self.bundle, prompt, raw=raw)
        if self._limits is None:
            yield from self._model_info()
        assert self._limits is not None
        needed = min(len(tokens) + parameters.max_new_tokens, self._limits.max_length)
        generation = Generation(self.bundle, tokens, parameters)
        if keep:
            return (yield from self._conversation(tokens, needed, wait)), generation
        return (yield from self._open_session(self._core(needed, wait))), generation

    def _conversation(self, tokens: list[int], needed: int, wait: float) -> Steps[S]:
        """A kept session that holds a beginning of the prompt, or a new one."""
        kept = self._pool
        match = kept.claim(tokens)
        if match is None:
            session = yield from self._roomy(None, 0, needed, wait)
        elif not match.continues:
            session = yield from self._roomy(match.session, match.length, needed, wait)
        elif match.session.max_length >= needed:
            match.session.rollback(match.length)
            return match.session
        else:  # it is too short to go on in
            try:
                session = yield from self._roomy(match.session, match.length, needed, wait)
            except BaseException:
                kept.give_back(match.session)
                raise
            kept.forget(match.session)
            yield from match.session._close()
        try:
            while not kept.add(session) and (idle := kept.let_go()) is not None:
                yield from idle._close()
        except BaseException:
            yield from session._close()
            raise
        return session

    def _roomy(self, source: S | None, length: int, needed: int, wait: float) -> Steps[S]:
        """A new session, or a fork of one, in which a conversation may go on, where there is room
        for that; else one that holds what is needed now."""
        assert self._limits is not None
        wanted = min(max(needed, self._limits.default_length), self._limits.max_length)

        def opened(max_length: int, seconds: float) -> Steps[S]:
            if source is None:
                return self._open_session(self._core(max_length, seconds))
            return self._fork(source, length, max_length, seconds)

        if wanted > needed:
            try:
                return (yield from opened(wanted, 0.0))
            except ServerBusyError:
                pass
        return (yield from opened(needed, wait))

    def _end(self, session: S) -> Steps[None]:
        """The reply is at its end: leave the session to be continued, if it is kept."""
        if not session.position or not self._pool.give_back(session):
            yield from session._close()
