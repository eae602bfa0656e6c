"""One request on its way: from prompts to OpenAI's objects, whole or in chunks. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from stip.v1.inference_pb2 import Limits
from stip_client.gateway.choices import Pieces, interleaved
from stip_client.gateway.logprobs import LogprobStream, TokenLogprob
from stip_client.gateway.replies import ChatReply, Choice, Json, Usage
from stip_client.gateway.requests import CompletionRequest
from stip_client.gateway.served_model import ServedModel
from stip_client.session.generation import Piece


class Completion:
    """The choices of one request, under way."""

    def __init__(
        self,
        model: ServedModel,
        request: CompletionRequest,
        reply: ChatReply,
        prompts: list[list[int]],
        limits: Limits,
    ) -> None:
        """Use `prepare`."""
        self._model = model
        self._request = request
        self._reply = reply
        self._prompts = prompts
        self._limits = limits
        self._usage = Usage(prompt_tokens=sum(map(len, prompts)))
        self._logprobs: list[LogprobStream] = []
        if request.logprobs is not None:
            self._logprobs = [
                LogprobStream(
                    model.vocabulary, frozenset() if request.ignore_eos else model.eos_token_ids
                )
                for _ in range(request.choices)
            ]

    @classmethod
    async def prepare(
        cls, model: ServedModel, request: CompletionRequest, reply: ChatReply
    ) -> Completion:
        """Tokenize the prompts. Raises ClientError and ApiError."""
        prompts = [await model.encode(each, raw=request.raw) for each in request.prompts]
        return cls(model, request, reply, prompts, await model.limits())

    async def whole(self) -> Json:
        """Everything, once all choices have ended."""
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
            Choice(text, reason, logprobs if self._logprobs else None)
            for text, reason, logprobs in zip(texts, reasons, tokens, strict=True)
        ]
        return self._reply.whole(choices, self._usage)

    async def chunks(self) -> AsyncGenerator[Json, None]:
        """Chunk after chunk, as tokens come."""
        begun: set[int] = set()
        async with aclosing(self._pieces()) as pieces:
            async for index, piece in pieces:
                if index not in begun:
                    begun.add(index)
                    if first := self._reply.first_chunk(index):
                        yield first
                    if echo := self._echo(index):
                        yield self._reply.chunk(index, echo, None)
                tokens = self._certain(index, piece)
                if piece.text or tokens:
                    yield self._reply.chunk(index, piece.text, tokens)
                if piece.finish_reason:
                    yield self._reply.last_chunk(index, piece.finish_reason)
        if self._request.include_usage:
            yield self._reply.usage_chunk(self._usage)

    async def _pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        uncounted = set(range(0, self._request.choices, self._request.n))
        all_pieces = interleaved(self._start, len(self._prompts), self._request.n)
        async with aclosing(all_pieces) as pieces:
            async for index, piece in pieces:
                self._model.check_serving()
                self._usage.completion_tokens += 1
                if index in uncounted:  # a prompt's first piece: its step had what was not cached
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
        """The prompt, where the reply is to begin with it."""
        if not self._request.echo:
            return ""
        prompt = self._request.prompts[index // self._request.n]
        if isinstance(prompt, str):
            return prompt
        token_ids = self._prompts[index // self._request.n]
        return self._model.vocabulary.decode(token_ids)
