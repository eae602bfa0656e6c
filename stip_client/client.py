"""The synchronous client. Its twin is aio.py; both run the core in session/."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import Self, Unpack

import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip_client.bundle.chat_template import Message
from stip_client.bundle.prompt import Prompt
from stip_client.session.async_session import AsyncSession
from stip_client.session.client_core import ClientCore, ClientSettings
from stip_client.session.forward_call import ForwardResult, LogitsForm, RowsName
from stip_client.session.generation import Piece
from stip_client.session.generation_options import GenerationParameters, Options
from stip_client.transport.blocking import BlockingTransport
from stip_client.transport.interface import run


class Client:
    """A client of one server, or of several that serve the same bundle, with one client bundle.

    >>> with Client("localhost:50051", bundle="bundles/client") as client:
    ...     for piece in client.generate("Hello, how are you?", max_new_tokens=32):
    ...         print(piece.text, end="")

    target: HOST:PORT, or several in a list or with commas between them. If one is lost, the
    sessions go on with the next. dtype: the type of hidden states on the wire, "float16" (default),
    "bfloat16" or "float32".

    Seconds: connect_timeout (10) for connecting and opening, timeout (300) for one answer; patience
    (30): for how long a lost session is tried again, 0 for not at all. max_conversations (8): how
    many sessions are kept for prompts that continue them.

    tls: makes the connection TLS. token: goes with every call; it is refused on a connection in
    plain text to another machine unless `insecure`. verify_key: the file of the public key with
    which the bundle must be signed.

    Raises BundleError for a damaged bundle or another signer, and CredentialsError for TLS files, a
    token or a public key that cannot be used. The first call connects.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        bundle: str | Path,
        **settings: Unpack[ClientSettings],
    ) -> None:
        self._core = ClientCore(BlockingTransport(), target, bundle, **settings)
        self.bundle = self._core.bundle
        self.targets = self._core.targets

    def model_info(self) -> GetModelInfoResponse:
        """What the server serves, and within which limits."""
        return run(self._core.model_info())

    def session(self, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that may hold max_length tokens, for which the server reserves memory.

        max_length 0 leaves the length to the server. wait: seconds for which a full server may look
        for room. Raises ServerBusyError.
        """
        return Session(run(self._core.session(max_length=max_length, wait=wait)))

    def generate(
        self, prompt: Prompt, *, raw: bool = False, keep: bool = False, **options: Unpack[Options]
    ) -> Generator[Piece, None, None]:
        """Generate a reply, piece by piece. Closing the iterator ends it.

        A text prompt becomes the user's message in the model's chat template, if the bundle has
        one and `raw` is false. Messages and token ids are prompts as well. `keep` keeps the session
        for later prompts. A prompt that shares its beginning with a kept session neither sends nor
        computes these tokens again.

        max_new_tokens (32); temperature (0: greedy), top_k (0: off), top_p (1: off), min_p (0:
        off), repetition_penalty (1: off) and seed; stop: strings that end the reply; ignore_eos;
        top_logprobs: how many of the likeliest tokens to report with each token; logits_processors:
        callables of the tokens so far and a row of logits, float32 [vocab_size], that return the
        row to choose from; draft: how many tokens to guess in advance, "auto", "off" or a number,
        which changes only the speed; wait: seconds for which a full server may look for room; echo:
        ask for the first ten floats that the server received.
        """
        return _iterate(self._core.generate(prompt, raw=raw, keep=keep, **options))

    def chat(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> Generator[Piece, None, None]:
        """Generate the reply to a conversation: `generate` with messages and `keep`.

        A conversation that goes on sends only what is new.
        """
        return self.generate(messages, keep=True, **options)

    def close(self) -> None:
        """Close every session that is still open, and the connections."""
        run(self._core.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session:
    """One session: the raw layer under `generate`. Use it as a context manager.

    A lost session is restored for as long as the client has patience. After an error the session is
    where it was before the call, and the next call tries again.
    """

    def __init__(self, session: AsyncSession) -> None:
        """Made by a client. session: one over a transport that blocks."""
        self._session = session

    @property
    def position(self) -> int:
        """The number of tokens that precede the next forward call."""
        return self._session.position

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that the session holds."""
        return self._session.tokens

    @property
    def max_length(self) -> int:
        """The number of tokens that the session may hold."""
        return self._session.max_length

    def rollback(self, position: int) -> None:
        """Forget the tokens from `position` on; the next forward call continues from there."""
        self._session.rollback(position)

    def open(self) -> None:
        """Resume the session after a broken stream; nothing if it is open."""
        run(self._session.open())

    def forward(self, token_ids: Sequence[int], *, rows: RowsName = "all") -> NDArray[np.float32]:
        """Add tokens to the session; their logits in vocabulary order, float32 [rows, vocab_size].

        rows: "all" gives one row a token, "last" the last token's, "none" none ([0, vocab_size]).
        """
        return run(self._session.forward(token_ids, rows=rows))

    def step(
        self, token_ids: Sequence[int], form: LogitsForm, *, echo: bool = False
    ) -> ForwardResult:
        """Add tokens to the session; their logits in the form asked for, and where time went."""
        return run(self._session.step(token_ids, form, echo=echo))

    def generate(
        self, prompt: Sequence[int], parameters: GenerationParameters | None = None
    ) -> Generator[Piece, None, None]:
        """Generate a reply to some more tokens, in this session."""
        return _iterate(self._session.generate(prompt, parameters))

    def fork(self, length: int | None = None, *, max_length: int = 0, wait: float = 0.0) -> Session:
        """Open a session that begins with the first `length` tokens of this one (None: all).

        They are neither computed nor sent again; this session goes on unchanged. max_length (0: as
        many as this session) and wait are those of `Client.session`.
        """
        return Session(run(self._session.fork(length, max_length=max_length, wait=wait)))

    def close(self) -> None:
        """End the session; the server frees its memory.

        A server that cannot be reached frees it when the time to live is over.
        """
        run(self._session.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _iterate(pieces: AsyncGenerator[Piece, None]) -> Generator[Piece, None, None]:
    """The same pieces; closing the iterator closes the asynchronous one."""
    try:
        while True:
            try:
                piece = run(anext(pieces))
            except StopAsyncIteration:
                return
            yield piece
    finally:
        run(pieces.aclose())
