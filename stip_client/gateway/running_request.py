"""One request, from prompts to OpenAI's objects, whole or in chunks. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from stip.v1.inference_pb2 import Limits
from stip_client.gateway.logprobs import LogprobStream, TokenLogprob
from stip_client.gateway.openai_objects import ChatObjects, FinishedChoice, Json, Usage
from stip_client.gateway.requests import CompletionRequest
from stip_client.gateway.served_model import Pieces, ServedModel
from stip_client.session.generation import Piece


class RunningRequest:
    """Generates the choices of one request."""

    def __init__(
        self,
        model: ServedModel,
        request: CompletionRequest,
        objects: ChatObjects,
        prompts: list[list[int]],
        limits: Limits,
    ) -> None:
        """Use `prepare`."""
        self._model = model
        self._request = request
        self._objects = objects
        self._prompts = prompts
        self._limits = limits
        self._usage = Usage(prompt_tokens=sum(map(len, prompts)))
        self._logprobs: list[LogprobStream] = []
        if request.logprobs is not None:
            self._logprobs = [
                LogprobStream(
                    model.token_text, frozenset() if request.ignore_eos else model.eos_token_ids
                )
                for _ in range(request.choices)
            ]

    @classmethod
    async def prepare(
        cls, model: ServedModel, request: CompletionRequest, objects: ChatObjects
    ) -> RunningRequest:
        """Tokenize the prompts. Raises ClientError and ApiError."""
        prompts = [await model.encode(each, raw=request.raw) for each in request.prompts]
        return cls(model, request, objects, prompts, await model.limits())

    async def whole(self) -> Json:
        """The whole answer, after all choices have ended."""
        count = self._request.choices
        texts = [self._echo(index) for index in range(count)]
        tokens: list[list[TokenLogprob]] = [[] for _ in range(count)]
        reasons = [""] * count
        async with aclosing(self._pieces()) as pieces:
            async for index, piece in pieces:
                texts[index] += piece.text
                tokens[index] += self._certain(index, piece) or ()
                reasons[index] = piece.finish_reason or ""
        choices = [
            FinishedChoice(text, reason, logprobs if self._logprobs else None)
            for text, reason, logprobs in zip(texts, reasons, tokens, strict=True)
        ]
        return self._objects.whole(choices, self._usage)

    async def chunks(self) -> AsyncGenerator[Json, None]:
        """The answer in chunks, as tokens arrive."""
        begun: set[int] = set()
        async with aclosing(self._pieces()) as pieces:
            async for index, piece in pieces:
                if index not in begun:
                    begun.add(index)
                    if first := self._objects.first_chunk(index):
                        yield first
                    if echo := self._echo(index):
                        yield self._objects.chunk(index, echo, None)
                tokens = self._certain(index, piece)
                if piece.text or tokens:
                    yield self._objects.chunk(index, piece.text, tokens)
                if piece.finish_reason:
                    yield self._objects.last_chunk(index, piece.finish_reason)
        if self._request.include_usage:
            yield self._objects.usage_chunk(self._usage)

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        uncounted = set(range(0, self._request.choices, self._request.n))
        all_pieces = interleaved(self._start, len(self._prompts), self._request.n)
        async with aclosing(all_pieces) as pieces:
            async for index, piece in pieces:
                self._model.check_serving()
                self._usage.completion_tokens += 1
                if index in uncounted:  # a prompt's first step computed what was not cached
                    uncounted.remove(index)
                    self._usage.cached_tokens += self._cached(index, piece)
                yield index, piece

    def _start(self, index: int) -> Pieces:
        token_ids = self._prompts[index // self._request.n]
        return self._model.generate(self._request, token_ids, self._limits, index)

    def _cached(self, index: int, piece: Piece) -> int:
        if piece.profile is None:
            return 0
        sent = piece.profile.rows - piece.profile.drafted
        return max(0, len(self._prompts[index // self._request.n]) - sent)

    def _certain(self, index: int, piece: Piece) -> list[TokenLogprob] | None:
        return self._logprobs[index].push(piece) if self._logprobs else None

    def _echo(self, index: int) -> str:
        """The prompt, if the reply begins with it."""
        if not self._request.echo:
            return ""
        prompt = self._request.prompts[index // self._request.n]
        if isinstance(prompt, str):
            return prompt
        token_ids = self._prompts[index // self._request.n]
        return self._model.token_text.decode(token_ids)


async def interleaved(
    start: Callable[[int], Pieces], prompts: int, n: int
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of all choices as they arrive, each with the index of its choice.

    start(index) begins a choice; choices p * n to p * n + n - 1 belong to prompt p. The other
    choices of a prompt begin after the first one's first piece: the prompt has then been computed,
    and they reuse it. Closing this generator ends all choices; an error of one ends all.
    """
    if prompts * n == 1:
        async with aclosing(start(0)) as pieces:
            async for piece in pieces:
                yield 0, piece
        return

    arrived: asyncio.Queue[tuple[int, Piece] | asyncio.Task[None]] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    def begin(index: int) -> None:
        task = asyncio.create_task(follow(index))
        tasks.add(task)
        task.add_done_callback(arrived.put_nowait)

    async def follow(index: int) -> None:
        is_first = index % n == 0
        async with aclosing(start(index)) as pieces:
            async for piece in pieces:
                arrived.put_nowait((index, piece))
                if is_first:
                    is_first = False
                    for other in range(index + 1, index + n):
                        begin(other)

    try:
        for prompt in range(prompts):
            begin(prompt * n)
        while tasks:
            item = await arrived.get()
            if isinstance(item, asyncio.Task):
                tasks.discard(item)
                item.result()
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
