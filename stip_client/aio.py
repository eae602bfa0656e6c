"""The asynchronous client: client.py's twin, over the same core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import (
    GetModelInfoRequest,
    GetModelInfoResponse,
    InferRequest,
    InferResponse,
    Limits,
)
from stip.v1.inference_pb2_grpc import InferenceServiceStub
from stip_client.bundle import ClientBundle
from stip_client.channel import CLOSE_TIMEOUT, CONNECT_TIMEOUT, Endpoint
from stip_client.credentials import TLS
from stip_client.errors import (
    BROKEN_WRITE,
    ClientError,
    ConnectionLostError,
    RequestError,
    SessionLostError,
)
from stip_client.generation import Generation, GenerationParameters, Piece, Prompt, encode_prompt
from stip_client.protocol import LogitsWanted, Reply, RowsName, SessionCore
from stip_client.sampling import SamplingParameters

_T = TypeVar("_T")

# How long the status of a call that has ended may take to come; it is on this machine already.
STATUS_TIMEOUT = 1.0


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited.

    >>> async with AsyncClient("localhost:50051", bundle="stip_model/client") as client:
    ...     async for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")
    """

    def __init__(
        self,
        target: str,
        bundle: str | Path,
        *,
        dtype: str = "float16",
        connect_timeout: float = CONNECT_TIMEOUT,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        self.bundle = ClientBundle(Path(bundle))
        self.target = target
        self._dtype = dtype
        self._endpoint = Endpoint(
            target, tls=tls, token=token, insecure=insecure, connect_timeout=connect_timeout
        )
        self._channel = self._endpoint.channel(grpc.aio)
        self._stub = InferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._sessions: set[AsyncSession] = set()
        self._limits: Limits | None = None

    async def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        try:
            response = await self._stub.GetModelInfo(
                GetModelInfoRequest(),
                timeout=self._endpoint.connect_timeout,
                metadata=self._endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise self._endpoint.error(error) from error
        return cast(GetModelInfoResponse, response)

    async def session(self, *, max_length: int = 0, wait: float = 0.0) -> AsyncSession:
        """Open a session that may hold max_length tokens, for which the server reserves memory.

        0 leaves max_length to the server. Where there is no room, the server looks for it for
        `wait` seconds. Raises ServerBusyError.
        """
        core = SessionCore(self.bundle, dtype=self._dtype, max_length=max_length, wait=wait)
        return await self._open_session(core)

    async def _open_session(self, core: SessionCore) -> AsyncSession:
        session = AsyncSession(core, self)
        await session.open()
        self._sessions.add(session)
        return session

    async def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        raw: bool = False,
        echo: bool = False,
        wait: float = 0.0,
    ) -> AsyncIterator[Piece]:
        """Generate a reply in a session of its own, piece by piece; as `Client.generate`."""
        sampling = SamplingParameters(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        parameters = GenerationParameters(max_new_tokens, sampling, stop, ignore_eos)
        token_ids = encode_prompt(self.bundle, prompt, raw=raw)
        if self._limits is None:
            self._limits = (await self.model_info()).limits
        max_length = min(len(token_ids) + max_new_tokens, self._limits.max_length)
        async with await self.session(max_length=max_length, wait=wait) as session:
            async for piece in session.generate(token_ids, parameters, echo=echo):
                yield piece

    async def close(self) -> None:
        """Close every session that is still open, and the connection."""
        for session in list(self._sessions):
            await session.close()
        await self._channel.close(None)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class AsyncSession:
    """`Session` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        core: SessionCore,
        client: AsyncClient,
    ) -> None:
        """Made by a client."""
        self._core = core
        self._client = client
        self._stream: _Stream | None = None
        # whether every request on the stream has been answered
        self._settled = True
        self._reachable = True
        self._closed = False

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return self._core.position

    @property
    def max_length(self) -> int:
        """The number of tokens the session may hold."""
        return self._core.max_length

    async def open(self) -> None:
        """Open the session, or resume it after a broken stream; nothing if it is open."""
        await self._open(self._client._endpoint.connect_timeout + self._core.patience)

    async def _open(self, timeout: float) -> None:
        if self._closed:
            raise RequestError("the session is closed")
        if self._stream is not None and self._settled:
            return
        self._drop_stream()
        stream = _Stream(self._client._stub, self._client._endpoint)
        try:
            opened = stream.ask(self._core.open_request())
            self._core.take_opened(await asyncio.wait_for(opened, timeout))
        except asyncio.TimeoutError as error:
            stream.cancel()
            raise self._client._endpoint.timed_out(timeout) from error
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream
        self._reachable = True

    async def forward(
        self, token_ids: Sequence[int], *, rows: RowsName = "all"
    ) -> NDArray[np.float32]:
        """Add tokens to the session; their logits in vocabulary order, as `Session.forward`."""
        reply = await self.step(token_ids, LogitsWanted(rows))
        if reply.logits is None:
            return np.empty((0, self._core.vocab_size), np.float32)
        return reply.logits.values

    def rollback(self, position: int) -> None:
        """Forget the tokens from `position` on; the next forward call continues from there."""
        self._core.rollback(position)

    async def fork(
        self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0
    ) -> AsyncSession:
        """Open a session that begins with the first `length` tokens of this one (None: all).

        They are neither computed nor sent again; this session goes on unchanged. max_length (0: as
        many as this session) and wait are those of `Client.session`.
        """
        await self.open()
        core = self._core.fork(length, max_length=max_length, wait=wait)
        return await self._client._open_session(core)

    async def step(
        self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False
    ) -> Reply:
        """Add tokens to the session and ask for some form of logits."""
        await self.open()
        stream = cast(_Stream, self._stream)
        forward = self._core.forward(token_ids, wanted, echo=echo)
        self._settled = False
        try:
            requests = forward.requests()
            in_flight = 0
            for request in islice(requests, self._core.steps_in_flight):
                await stream.send(request)
                in_flight += 1
            while in_flight:
                forward.take(await stream.receive())
                in_flight -= 1
                for request in islice(requests, 1):
                    await stream.send(request)
                    in_flight += 1
            reply = forward.finish()
        except ClientError as error:
            # neither a server that is away nor a session that is gone has anything to close
            self._reachable = not isinstance(error, (ConnectionLostError, SessionLostError))
            self._drop_stream()
            raise
        self._settled = True
        return reply

    async def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters, *, echo: bool = False
    ) -> AsyncIterator[Piece]:
        """Generate a reply to some more tokens, in this session."""
        room = self.max_length - self.position
        generation = Generation(self._core.bundle, prompt, parameters, max_length=room)
        while (tokens := generation.next_tokens()) is not None:
            yield generation.take(await self.step(tokens, generation.wanted, echo=echo))

    async def close(self) -> None:
        """End the session; the server frees what it holds.

        Where the server cannot be reached it frees them when the time to live is over.
        """
        try:
            if not self._settled:
                self._drop_stream()
            if self._stream is None and self._reachable and not self._closed:
                await self._open(CLOSE_TIMEOUT)
            if self._stream is not None:
                await self._stream.close(self._core.close_request())
        except ClientError:
            pass  # the connection or the session is gone, and with it all there was to close
        finally:
            self._closed = True
            self._drop_stream()
            self._client._sessions.discard(self)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._settled = True

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Stream:
    """One Infer call."""

    def __init__(self, stub: InferenceServiceStub, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._call: Any = stub.Infer(metadata=endpoint.metadata)
        self._status: grpc.aio.AioRpcError | None = None
        self._call.add_done_callback(self._keep_status)

    async def send(self, request: InferRequest) -> None:
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._ended() from error

    async def ask(self, request: InferRequest) -> InferResponse:
        await self.send(request)
        return await self.receive()

    async def receive(self) -> InferResponse:
        try:
            response = await self._call.read()
        except grpc.RpcError as error:
            raise await self._ended() from error
        if response is grpc.aio.EOF:  # type: ignore[attr-defined]  # absent from the stubs
            raise await self._ended()
        return cast(InferResponse, response)

    async def close(self, request: InferRequest) -> None:
        """Send the last request and wait for the server to end the stream."""
        try:
            await asyncio.wait_for(self._finish(request), CLOSE_TIMEOUT)
        except asyncio.TimeoutError as error:
            raise self._endpoint.timed_out(CLOSE_TIMEOUT) from error

    async def _finish(self, request: InferRequest) -> None:
        await self.send(request)
        try:
            while await self._call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass  # answers that nobody has waited for
        except grpc.RpcError as error:
            raise await self._ended() from error

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
