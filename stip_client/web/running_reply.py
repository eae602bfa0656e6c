"""A reply under way: what has come of it so far, and how it is stopped. Knows nothing of HTML."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from stip.v1.inference_pb2 import GetModelInfoResponse
from stip_client.bundle.prompt import encode_prompt
from stip_client.errors import ClientError, RequestError
from stip_client.session.generation import FinishReason, Piece
from stip_client.transport.step_profile import StepProfile
from stip_client.web.loaded_model import LoadedModel

# Between one picture and the next, seconds: no faster than a page can be drawn.
FRAME = 0.08
# Between one look at how busy the server is and the next, seconds.
LOOK = 1.0
# Floats that a server tells, and how many steps' are remembered.
FLOATS = 10
REMEMBERED = 15

Stage = Literal["waiting", "streaming", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Received:
    """The first floats of one step: as they are, and as the server says it received them."""

    step: int
    unmasked: tuple[float, ...]
    received: tuple[float, ...]


@dataclass
class ReplyProgress:
    """What has come of a reply so far."""

    stage: Stage = "waiting"
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    steps: list[StepProfile] = field(default_factory=list)
    floats: deque[Received] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    first_after: float = 0.0  # seconds
    seconds: float = 0.0
    finish_reason: FinishReason | None = None
    error: ClientError | None = None
    echo_refused: bool = False

    @property
    def under_way(self) -> bool:
        """Whether more may come."""
        return self.stage in ("waiting", "streaming")

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first; 0 where there is none."""
        rest = self.seconds - self.first_after
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


class RunningReply:
    """One prompt's run against the server.

    Tokens are not guessed in advance, so that every token is a step of its own, with its own floats
    and its own bar in the chart.
    """

    def __init__(
        self, loaded: LoadedModel, prompt: str, *, max_new_tokens: int, temperature: float
    ) -> None:
        self.reply = ReplyProgress()
        self.info: GetModelInfoResponse | None = None
        self._loaded = loaded
        self._prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._sent = 0  # the token whose row is the next step's first

    def stop(self) -> None:
        """End the reply; what has come of it stays. Nothing if it has ended."""
        if self._task is not None and not self._stopping:
            self._stopping = True  # once: a second one would end the closing of the session
            self._task.cancel()

    async def frames(self) -> AsyncGenerator[None, None]:
        """Generate, and say from time to time that there is something new to be shown; the last
        time when the reply has ended."""
        task = self._task = asyncio.create_task(self._generate())
        task.add_done_callback(self._ended)
        watch = asyncio.create_task(self._watch_server())
        try:
            seen = -1
            while not task.done():
                await asyncio.wait({task}, timeout=FRAME)
                if not task.done() and self.reply.tokens != seen:
                    seen = self.reply.tokens
                    yield
            if not task.cancelled():
                task.result()  # raises what no user can cause
            with suppress(ClientError):
                self.info = await self._loaded.client.model_info()
            yield
        finally:
            watch.cancel()
            self.stop()
            await asyncio.wait({watch, task})

    async def _generate(self) -> None:
        reply, client = self.reply, self._loaded.client
        try:
            if not self._prompt:  # a chat template would make something of it
                raise RequestError("the prompt is empty")
            token_ids = encode_prompt(client.bundle, self._prompt)
            self.info = await client.model_info()
            reply.prompt_tokens, self._sent = len(token_ids), token_ids[0]
            reply.echo_refused = not self.info.limits.echo_allowed
            began = perf_counter()
            pieces = client.generate(
                token_ids,
                max_new_tokens=self._max_new_tokens,
                temperature=self._temperature,
                echo=not reply.echo_refused,
                draft="off",
            )
            async with aclosing(pieces):
                async for piece in pieces:
                    self._take(piece, perf_counter() - began)
            reply.stage = "finished"
        except ClientError as error:
            reply.stage, reply.error = "failed", error

    def _take(self, piece: Piece, seconds: float) -> None:
        reply = self.reply
        if not reply.tokens:
            reply.stage, reply.first_after = "streaming", seconds
        reply.text += piece.text
        reply.tokens += 1
        reply.seconds = seconds
        reply.finish_reason = piece.finish_reason
        if piece.profile is not None:
            reply.steps.append(piece.profile)
        if piece.received:
            row = self._loaded.client.bundle.embeddings.rows([self._sent])[0, :FLOATS]
            unmasked = tuple(float(value) for value in row)
            reply.floats.append(Received(len(reply.steps), unmasked, piece.received))
        self._sent = piece.token_id

    def _ended(self, _: asyncio.Task[None]) -> None:
        # here, as nobody may be left to take another picture
        if self.reply.under_way:
            self.reply.stage = "stopped"

    async def _watch_server(self) -> None:
        """Keep `info` fresh while the reply is under way."""
        while True:
            await asyncio.sleep(LOOK)
            with suppress(ClientError):  # the reply itself tells of a server that is away
                self.info = await self._loaded.client.model_info()
