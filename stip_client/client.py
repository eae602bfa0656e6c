"""The synchronous client. Its twin is aio.py; all that is not I/O lives in the core they share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, Unpack

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
from stip_client.errors import ConnectionLostError, SessionLostError
from stip_client.session.base_client import BaseClient
from stip_client.session.base_session import BaseSession
from stip_client.session.driver import run
from stip_client.session.generation import Piece
from stip_client.session.generation_options import GenerationParameters, Options
from stip_client.session.session_core import LogitsWanted, Reply, RowsName, SessionCore
from stip_client.transport.endpoint import Endpoint


class Client(BaseClient["Session"]):
    """A client of one server, or of several that serve the same bundle, with one client bundle.

    >>> with Client("localhost:50051", bundle="bundles/client") as client:
    ...     for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")

    `target` is HOST:PORT, or several in a list or with commas between them: where one is lost, the
    sessions go on with the next. `dtype` is the type of hidden states on the wire: "float16"
    (default), "bfloat16" or "float32".

    Seconds: connecting and opening may take `connect_timeout`, one answer `timeout`; a session that
    was lost is tried again for `patience`, 0 for not at all. `max_conversations` is how many
    sessions are kept for prompts that continue them.

    `tls` makes the connection TLS. `token` goes with every call; it is refused on a connection in
    plain text to another machine unless `insecure`. `verify_key` is the file of the public key with
    which the bundle must be signed. Raises BundleError for a damaged bundle or another signer,
    CredentialsError for TLS files, a token or a public key that cannot be used; connecting happens
    with the first call.
    """

    def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        return run(self._model_info())

    def session(self, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that may hold max_length tokens, for which the server reserves memory.

        0 leaves max_length to the server. Where there is no room, the server looks for it for
        `wait` seconds. Raises ServerBusyError.
        """
        return run(self._open_session(self._core(max_length, wait)))

    def generate(
        self, prompt: Prompt, *, raw: bool = False, keep: bool = False, **options: Unpack[Options]
    ) -> Generator[Piece, None, None]:
        """Generate a reply, piece by piece. Closing the iterator ends it.

        A text prompt becomes the user's message in the model's chat template, if the bundle has
        one and `raw` is false; messages and token ids are prompts as well. `keep` leaves the
        session to a later prompt: what such a prompt has in common with a kept session, up to
        `max_conversations` of them, is neither sent nor computed again.

        max_new_tokens (32); temperature (0: greedy), top_k (0: off), top_p (1: off), min_p (0:
        off), repetition_penalty (1: off) and seed; stop strings; ignore_eos; top_logprobs: how
        many of the likeliest tokens to tell with each; logits_processors: callables of the tokens
        so far and a row of logits, float32 [vocab_size], that return the row to choose from; draft:
        how many tokens to guess in advance, "auto", "off" or a number, which changes the speed
        alone; wait: seconds that the server may look for room; echo: ask for the first ten floats
        that the server received.
        """
        session, generation = run(self._begin(prompt, options, raw=raw, keep=keep))
        try:
            while pieces := run(session._advance(generation)):
                yield from pieces
        except SessionLostError:
            session.close()
            raise
        finally:
            run(self._end(session))

    def chat(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> Generator[Piece, None, None]:
        """Generate the reply to a conversation: `generate` with messages and `keep`.

        A conversation that goes on sends only what is new.
        """
        return self.generate(messages, keep=True, **options)

    def close(self) -> None:
        """Close every session that is still open, and the connections."""
        for session in list(self._sessions):
            session.close()
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make_session(self, core: SessionCore) -> Session:
        return Session(core, self)

    def _stub(self, endpoint: Endpoint) -> InferenceServiceStub:
        if endpoint not in self._channels:
            self._channels[endpoint] = endpoint.channel(grpc)
        return InferenceServiceStub(self._channels[endpoint])  # type: ignore[no-untyped-call]

    def _stream(self, endpoint: Endpoint) -> _Stream:
        return _Stream(self._stub(endpoint), endpoint)

    def _ask_for_info(self, endpoint: Endpoint) -> Any:
        try:
            return self._stub(endpoint).GetModelInfo(
                GetModelInfoRequest(),
                timeout=endpoint.connect_timeout,
                metadata=endpoint.metadata,
            )
        except grpc.RpcError as error:
            raise endpoint.error(error) from error

    def _sleep(self, seconds: float) -> None:
        sleep(seconds)

    def _work(self, function: Callable[[], object]) -> None:
        function()


class Session(BaseSession):
    """One session: the raw layer under `generate`. Use it as a context manager.

    A session that was lost goes on, for as long as the client has patience. After an error it
    stands where it stood before the call, and the next call tries again.
    """

    _client: Client

    def open(self) -> None:
        """Resume the session after a broken stream; nothing if it is open."""
        run(self._open())

    def forward(self, token_ids: Sequence[int], *, rows: RowsName = "all") -> NDArray[np.float32]:
        """Add tokens to the session; their logits in vocabulary order, float32 [rows, vocab_size].

        rows: "all" gives one row a token, "last" the last token's, "none" none ([0, vocab_size]).
        """
        return self._values(self.step(token_ids, LogitsWanted(rows)))

    def fork(self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that begins with the first `length` tokens of this one (None: all).

        They are neither computed nor sent again; this session goes on unchanged. max_length (0: as
        many as this session) and wait are those of `Client.session`.
        """
        return run(self._client._fork(self, length, max_length, wait))

    def step(self, token_ids: Sequence[int], wanted: LogitsWanted, *, echo: bool = False) -> Reply:
        """Add tokens to the session and ask for some form of logits."""
        return run(self._step(token_ids, wanted, echo=echo))

    def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters | None = None
    ) -> Generator[Piece, None, None]:
        """Generate a reply to some more tokens, in this session."""
        generation = self._generation(prompt, parameters or GenerationParameters())
        while pieces := run(self._advance(generation)):
            yield from pieces

    def close(self) -> None:
        """End the session; the server frees what it holds.

        Where the server cannot be reached it frees them when the time to live is over.
        """
        run(self._close())

    def __enter__(self) -> Self:
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

    def send(self, request: InferRequest, timeout: float = 0.0) -> None:
        del timeout  # it is put in a queue
        self._requests.put(request)

    def receive(self, timeout: float) -> InferResponse:
        try:
            response = self._responses.get(timeout=timeout)
        except Empty:
            raise self._endpoint.timed_out(timeout) from None
        if response is None:
            raise ConnectionLostError(f"{self._endpoint.target} ended the stream")
        if isinstance(response, grpc.RpcError):
            raise self._endpoint.error(response) from response
        return response

    def finish(self, request: InferRequest, timeout: float) -> None:
        self.send(request)
        deadline = monotonic() + timeout
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
