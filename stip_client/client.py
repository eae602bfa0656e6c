"""The synchronous client. Its twin is aio.py; all that is not I/O lives in the core they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any, cast

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
    ClientError,
    ConnectionLostError,
    RequestError,
    SessionLostError,
)
from stip_client.generation import Generation, GenerationParameters, Piece, Prompt, encode_prompt
from stip_client.protocol import LogitsWanted, Reply, RowsName, SessionCore
from stip_client.sampling import SamplingParameters


class Client:
    """A connection to one server with one client bundle.

    >>> with Client("localhost:50051", bundle="stip_model/client") as client:
    ...     for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")

    `dtype` is the type of hidden states on the wire: "float16" (default), "bfloat16" or "float32".
    `tls` makes the connection TLS. `token` goes with every call; it is refused on a connection in
    plain text to another machine unless `insecure`. Raises BundleError for a damaged bundle,
    CredentialsError for TLS files or a token that cannot be used; connecting happens with the
    first call.
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
        self._channel = self._endpoint.channel(grpc)
        self._stub = InferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._sessions: set[Session] = set()
        self._limits: Limits | None = None

    def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        try:
            response = self._stub.GetModelInfo(
                GetModelInfoRequest(),
                timeout=self._endpoint.connect_timeout,
                metadata=self._endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise self._endpoint.error(error) from error
        return cast(GetModelInfoResponse, response)

    def session(self, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that may hold max_length tokens, for which the server reserves memory.

        0 leaves max_length to the server. Where there is no room, the server looks for it for
        `wait` seconds. Raises ServerBusyError.
        """
        core = SessionCore(self.bundle, dtype=self._dtype, max_length=max_length, wait=wait)
        return self._open_session(core)

    def _open_session(self, core: SessionCore) -> Session:
        session = Session(core, self)
        session.open()
        self._sessions.add(session)
        return session

    def generate(
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
    ) -> Iterator[Piece]:
        """Generate a reply in a session of its own, piece by piece.

        A text prompt becomes the user's message in the model's chat template, if the bundle has
        one and `raw` is false. `echo` asks the server for the first ten floats it received.
        """
        sampling = SamplingParameters(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        parameters = GenerationParameters(max_new_tokens, sampling, stop, ignore_eos)
        token_ids = encode_prompt(self.bundle, prompt, raw=raw)
        if self._limits is None:
            self._limits = self.model_info().limits
        max_length = min(len(token_ids) + max_new_tokens, self._limits.max_length)
        with self.session(max_length=max_length, wait=wait) as session:
            yield from session.generate(token_ids, parameters, echo=echo)

    def close(self) -> None:
        """Close every session that is still open, and the connection."""
        for session in list(self._sessions):
            session.close()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Session:
    """One session: the raw layer under `generate`. Use it as a context manager.

    After an error it stands where it stood before the call, unless the error is SessionLostError;
    the next call resumes it on a new stream.
    """

    def __init__(
        self,
        core: SessionCore,
        client: Client,
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

    def open(self) -> None:
        """Open the session, or resume it after a broken stream; nothing if it is open."""
        self._open(self._client._endpoint.connect_timeout + self._core.patience)

    def _open(self, timeout: float) -> None:
        if self._closed:
            raise RequestError("the session is closed")
        if self._stream is not None and self._settled:
            return
        self._drop_stream()
        stream = _Stream(self._client._stub, self._client._endpoint)
        try:
            stream.send(self._core.open_request())
            self._core.take_opened(stream.receive(timeout))
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream
        self._reachable = True

    def forward(self, token_ids: Sequence[int], *, rows: RowsName = "all") -> NDArray[np.float32]:
        """Add tokens to the session; their logits in vocabulary order, float32 [rows, vocab_size].

        rows: "all" gives one row a token, "last" the last token's, "none" none ([0, vocab_size]).
        """
        reply = self.step(token_ids, LogitsWanted(rows))
        if reply.logits is None:
            return np.empty((0, self._core.vocab_size), np.float32)
        return reply.logits.values

    def rollback(self, position: int) -> None:
        """Forget the tokens from `position` on; the next forward call continues from there."""
        self._core.rollback(position)

    def fork(self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that begins with the first `length` tokens of this one (None: all).

        They are neither computed nor sent again; this session goes on unchanged. max_length (0: as
        many as this session) and wait are those of `Client.session`.
        """
        self.open()
        core = self._core.fork(length, max_length=max_length, wait=wait)
        return self._client._open_session(core)

    def step(self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False) -> Reply:
        """Add tokens to the session and ask for some form of logits."""
        self.open()
        stream = cast(_Stream, self._stream)
        forward = self._core.forward(token_ids, wanted, echo=echo)
        self._settled = False
        try:
            requests = forward.requests()
            in_flight = 0
            for request in islice(requests, self._core.steps_in_flight):
                stream.send(request)
                in_flight += 1
            while in_flight:
                forward.take(stream.receive())
                in_flight -= 1
                for request in islice(requests, 1):
                    stream.send(request)
                    in_flight += 1
            reply = forward.finish()
        except ClientError as error:
            # neither a server that is away nor a session that is gone has anything to close
            self._reachable = not isinstance(error, (ConnectionLostError, SessionLostError))
            self._drop_stream()
            raise
        self._settled = True
        return reply

    def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters, *, echo: bool = False
    ) -> Iterator[Piece]:
        """Generate a reply to some more tokens, in this session."""
        room = self.max_length - self.position
        generation = Generation(self._core.bundle, prompt, parameters, max_length=room)
        while (tokens := generation.next_tokens()) is not None:
            yield generation.take(self.step(tokens, generation.wanted, echo=echo))

    def close(self) -> None:
        """End the session; the server frees what it holds.

        Where the server cannot be reached it frees them when the time to live is over.
        """
        try:
            if not self._settled:
                self._drop_stream()
            if self._stream is None and self._reachable and not self._closed:
                self._open(CLOSE_TIMEOUT)
            if self._stream is not None:
                self._stream.close(self._core.close_request())
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

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class _Stream:
    """One Infer call, read by a thread of its own.

    The caller's thread waits on a queue and never inside gRPC: a Ctrl-C that is raised inside
    gRPC's Python code leaves a lock held there, and the next call then waits for ever.
    """

    def __init__(self, stub: InferenceServiceStub, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._requests: SimpleQueue[InferRequest | None] = SimpleQueue()
        # responses, then the error that ended the stream, or None for OK
        self._responses: SimpleQueue[InferResponse | grpc.RpcError | None] = SimpleQueue()
        self._call: Any = stub.Infer(iter(self._requests.get, None), metadata=endpoint.metadata)
        Thread(target=self._read, name="stip-stream", daemon=True).start()

    def send(self, request: InferRequest) -> None:
        self._requests.put(request)

    def receive(self, timeout: float | None = None) -> InferResponse:
        """The next response. Raises the error that ended the stream instead, or a time-out."""
        try:
            response = self._responses.get(timeout=timeout)
        except Empty:
            raise self._endpoint.timed_out(cast(float, timeout)) from None
        if response is None:
            raise ConnectionLostError(f"{self._endpoint.target} ended the stream")
        if isinstance(response, grpc.RpcError):
            raise self._endpoint.error(response) from response
        return response

    def close(self, request: InferRequest) -> None:
        """Send the last request and wait for the server to end the stream."""
        self.send(request)
        deadline = monotonic() + CLOSE_TIMEOUT
        while True:  # answers that nobody has waited for may come first
            self.receive(timeout=max(0.0, deadline - monotonic()))

    def cancel(self) -> None:
        self._call.cancel()
        self._requests.put(None)

    def _read(self) -> None:
        try:
            for response in self._call:
                self._responses.put(response)
        except grpc.RpcError as error:
            self._responses.put(error)
        else:
            self._responses.put(None)
