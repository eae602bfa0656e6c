"""The asynchronous client: client.py's twin, over the same core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
)
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.bundle.chat_template import Message
from stip_client.bundle.prompt import Prompt
from stip_client.errors import BROKEN_WRITE, ClientError, ConnectionLostError, SessionLostError
from stip_client.session.base_client import BaseClient
from stip_client.session.base_session import BaseSession
from stip_client.session.driver import run_async
from stip_client.session.generation import Piece
from stip_client.session.generation_options import GenerationParameters, Options
from stip_client.session.session_core import LogitsWanted, Reply, RowsName, SessionCore
from stip_client.transport.endpoint import Endpoint

_T = TypeVar("_T")

# How long the status of a call that has ended may take to come; it is on this machine already.
STATUS_TIMEOUT = 1.0


class AsyncClient(BaseClient["AsyncSession"]):
    """`Client` for asyncio: the same methods, awaited.

    >>> async with AsyncClient("localhost:50051", bundle="bundles/client") as client:
    ...     async for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")
    """

    async def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        return await run_async(self._model_info())

    def session(self, *, max_length: int = 0, wait: float = 0.0) -> OpeningSession:
        """Open a session, as `Client.session`: await it, or use it in `async with`."""
        return OpeningSession(run_async(self._open_session(self._core(max_length, wait))))

    async def generate(
        self, prompt: Prompt, *, raw: bool = False, keep: bool = False, **options: Unpack[Options]
    ) -> AsyncGenerator[Piece, None]:
        """Generate a reply, piece by piece; as `Client.generate`."""
        begun = self._begin(prompt, options, raw=raw, keep=keep)
        session, generation = await run_async(begun)
        try:
            while pieces := await run_async(session._advance(generation)):
                for piece in pieces:
                    yield piece
        except SessionLostError:
            await session.close()
            raise
        finally:
            await run_async(self._end(session))

    def chat(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> AsyncGenerator[Piece, None]:
        """Generate the reply to a conversation; as `Client.chat`."""
        return self.generate(messages, keep=True, **options)

    async def close(self) -> None:
        """Close every session that is still open, and the connections."""
        for session in list(self._sessions):
            await session.close()
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _make_session(self, core: SessionCore) -> AsyncSession:
        return AsyncSession(core, self)

    def _stub(self, endpoint: Endpoint) -> InferenceServiceStub:
        if endpoint not in self._channels:
            self._channels[endpoint] = endpoint.channel(grpc.aio)
        return InferenceServiceStub(self._channels[endpoint])  # type: ignore[no-untyped-call]

    def _stream(self, endpoint: Endpoint) -> _Stream:
        return _Stream(self._stub(endpoint), endpoint)

    async def _ask_for_info(self, endpoint: Endpoint) -> Any:
        try:
            return await self._stub(endpoint).GetModelInfo(
                GetModelInfoRequest(),
                timeout=endpoint.connect_timeout,
                metadata=endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise endpoint.error(error) from error

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)

    def _work(self, function: Callable[[], object]) -> Awaitable[object]:
        return asyncio.to_thread(function)  # other sessions go on meanwhile


class AsyncSession(BaseSession):
    """`Session` for asyncio: the same methods, awaited."""

    _client: AsyncClient

    async def open(self) -> None:
        """Resume the session after a broken stream; nothing if it is open."""
        await run_async(self._open())

    async def forward(
        self, token_ids: Sequence[int], *, rows: RowsName = "all"
    ) -> NDArray[np.float32]:
        """Add tokens to the session; their logits in vocabulary order, as `Session.forward`."""
        return self._values(await self.step(token_ids, LogitsWanted(rows)))

    def fork(
        self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0
    ) -> OpeningSession:
        """Open a session that begins with the first `length` tokens of this one, as `Session.fork`:
        await it, or use it in `async with`."""
        return OpeningSession(run_async(self._client._fork(self, length, max_length, wait)))

    async def step(
        self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False
    ) -> Reply:
        """Add tokens to the session and ask for some form of logits."""
        return await run_async(self._step(token_ids, wanted, echo=echo))

    async def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Generate a reply to some more tokens, in this session."""
        generation = self._generation(prompt, parameters or GenerationParameters())
        while pieces := await run_async(self._advance(generation)):
            for piece in pieces:
                yield piece

    async def close(self) -> None:
        """End the session; the server frees what it holds.

        Where the server cannot be reached it frees them when the time to live is over.
        """
        await run_async(self._close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class OpeningSession(Coroutine[Any, Any, AsyncSession]):
    """A session on its way: awaited it is the session, in `async with` it is closed at the end."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncSession]) -> None:
        self._opening = opening
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, AsyncSession]:
        return self._opening.__await__()

    def send(self, value: Any) -> Any:
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        return self._opening.throw(*error)

    def close(self) -> None:
        self._opening.close()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._opening
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()


class _Stream:
    """One Infer call."""

    def __init__(self, stub: InferenceServiceStub, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._call: Any = stub.Infer(metadata=endpoint.metadata)
        self._status: grpc.aio.AioRpcError | None = None
        self._call.add_done_callback(self._keep_status)

    async def send(self, request: InferRequest, timeout: float) -> None:
        """Returns when gRPC has room for the next one."""
        try:
            await self._within(timeout, self._call.write(request))
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._ended() from error

    async def receive(self, timeout: float) -> InferResponse:
        try:
            response = await self._within(timeout, self._call.read())
        except grpc.RpcError as error:
            raise await self._ended() from error
        if response is grpc.aio.EOF:  # type: ignore[attr-defined]  # absent from the stubs
            raise await self._ended()
        return cast(InferResponse, response)

    async def finish(self, request: InferRequest, timeout: float) -> None:
        deadline = monotonic() + timeout
        await self.send(request, timeout)
        while True:  # answers that nobody has waited for may come first
            await self.receive(max(0.0, deadline - monotonic()))

    async def _within(self, timeout: float, waiting: Awaitable[_T]) -> _T:
        """What a read or a write returns, if it does in time."""
        try:
            async with asyncio.timeout(timeout):
                return await waiting
        except TimeoutError as error:
            raise self._endpoint.timed_out(timeout) from error

    async def _ended(self) -> ClientError:
        """Why the stream has ended."""
        deadline = monotonic() + STATUS_TIMEOUT
        while _made_up(self._status) and monotonic() < deadline:
            await asyncio.sleep(0.001)
            self._keep_status(self._call)
        if self._status is None or self._status.code() is grpc.StatusCode.OK:
            return ConnectionLostError(f"{self._endpoint.target} ended the stream")
        return self._endpoint.error(self._status)

    def _keep_status(self, call: Any) -> None:
        """Keep a call's status, which grpc.aio can forget.

        A write that fails because the call has ended sets a status of its own, before the server's
        has come or over it; a refusal of the whole call would then look like a lost connection.
        """
        if call.done():
            self._status = grpc.aio.AioRpcError(
                code=_at_once(call.code()),
                initial_metadata=grpc.aio.Metadata(),
                trailing_metadata=_at_once(call.trailing_metadata()),
                details=_at_once(call.details()),
                debug_error_string="",
            )

    def cancel(self) -> None:
        self._call.cancel()


def _made_up(status: grpc.aio.AioRpcError | None) -> bool:
    return status is None or (status.details() or "").startswith(BROKEN_WRITE)


def _at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return cast(_T, finished.value)
    raise RuntimeError("the coroutine waits")
