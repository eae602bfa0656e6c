"""A running reply: what has arrived so far, and how to stop it. Knows no HTML."""

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
from stip_client.web.page_model import PageModel

# Seconds between two updates of the page: no faster than a browser draws it.
FRAME_INTERVAL = 0.08
# Seconds between two requests for the server's load.
LOAD_INTERVAL = 1.0
# The server echoes this many floats of a step. The page keeps those of the last steps.
FLOATS = 10
KEPT_STEPS = 15

Stage = Literal["waiting", "streaming", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class StepFloats:
    """The first floats of one step: unmasked, and as the server says it received them."""

    step: int
    unmasked: tuple[float, ...]
    received: tuple[float, ...]


@dataclass
class ReplyProgress:
    """What has arrived of a reply so far."""

    stage: Stage = "waiting"
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    steps: list[StepProfile] = field(default_factory=list)
    floats: deque[StepFloats] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    first_after: float = 0.0  # seconds
    seconds: float = 0.0
    finish_reason: FinishReason | None = None
    error: ClientError | None = None
    echo_refused: bool = False

    @property
    def under_way(self) -> bool:
        """Whether more may arrive."""
        return self.stage in ("waiting", "streaming")

    @property
    def tokens_per_second(self) -> float:
        """The rate of the tokens after the first; 0 if there are none."""
        rest = self.seconds - self.first_after
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


class RunningReply:
    """Generates the reply to one prompt.

    Drafting is off, so that every token is a step with its own floats and its own bar in the chart.
    """

    def __init__(
        self, loaded: PageModel, prompt: str, *, max_new_tokens: int, temperature: float
    ) -> None:
        self.reply = ReplyProgress()
        self.info: GetModelInfoResponse | None = None
        self._loaded = loaded
        self._prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._sent = 0  # the token whose row is the first of the next step

    def stop(self) -> None:
        """End the reply and keep what has arrived. Does nothing if the reply has ended."""
        if self._task is not None and not self._stopping:
            self._stopping = (
                True  # once: a second cancellation would interrupt the closing of the session
            )
            self._task.cancel()

    async def frames(self) -> AsyncGenerator[None, None]:
        """Generate the reply. Yields when there is something new to show, and once at the end."""
        task = self._task = asyncio.create_task(self._generate())
        task.add_done_callback(self._ended)
        watch = asyncio.create_task(self._watch_server())
        try:
            seen = -1
            while not task.done():
                await asyncio.wait({task}, timeout=FRAME_INTERVAL)
                if not task.done() and self.reply.tokens != seen:
                    seen = self.reply.tokens
                    yield
            if not task.cancelled():
                task.result()  # raises internal errors
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
            if not self._prompt:  # a chat template would make text of it
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
                    self._record(piece, perf_counter() - began)
            reply.stage = "finished"
        except ClientError as error:
            reply.stage, reply.error = "failed", error

    def _record(self, piece: Piece, seconds: float) -> None:
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
            reply.floats.append(StepFloats(len(reply.steps), unmasked, piece.received))
        self._sent = piece.token_id

    def _ended(self, _: asyncio.Task[None]) -> None:
        # here, because nobody may read another frame
        if self.reply.under_way:
            self.reply.stage = "stopped"

    async def _watch_server(self) -> None:
        """Keep `info` fresh while the reply runs."""
        while True:
            await asyncio.sleep(LOAD_INTERVAL)
            with suppress(ClientError):  # the reply itself reports a lost server
                self.info = await self._loaded.client.model_info()
