"""The one model that a gateway serves: its name, its limits, and generation under them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from stip.v1.inference_pb2 import Limits
from stip_client.aio import AsyncClient
from stip_client.bundle.prompt import encode_prompt
from stip_client.gateway.errors import ApiError
from stip_client.gateway.penalties import processors
from stip_client.gateway.requests import CompletionRequest, Prompt
from stip_client.gateway.token_text import TokenText
from stip_client.session.generation import Piece
from stip_client.session.generation_options import Options

Pieces = AsyncGenerator[Piece, None]
# What a reply may grow to behind a long prompt where the request does not say.
DEFAULT_REPLY_TOKENS = 1024


class ServedModel:
    """Generates with a client. `name` None: the model's type and the bundle's fingerprint.

    A server that is full is waited for `wait` seconds. Raises BundleError without a tokenizer.
    """

    def __init__(self, client: AsyncClient, *, name: str | None = None, wait: float = 0.0) -> None:
        self.client = client
        manifest = client.bundle.manifest
        self.name = name or f"{manifest.model.model_type}-{manifest.bundle_id[:8]}"
        self.created = int((client.bundle.folder / "manifest.json").stat().st_mtime)
        self.vocabulary = TokenText(client.bundle.tokenizer)
        self.eos_token_ids = client.bundle.eos_token_ids
        self._wait = wait
        self._limits: Limits | None = None
        self._ending = False

    def end(self) -> None:
        """From now on replies end with an error."""
        self._ending = True

    def check_serving(self) -> None:
        """Raises ApiError once the gateway is ending."""
        if self._ending:
            raise ApiError(503, "the gateway is ending", code="gateway_ending")

    def check_name(self, name: str) -> None:
        """Raises ApiError for any other model's name."""
        if name != self.name:
            raise ApiError(
                404,
                f"the model {name!r} does not exist; this gateway serves {self.name!r}",
                param="model",
                code="model_not_found",
            )

    async def encode(self, prompt: Prompt, *, raw: bool) -> list[int]:
        """The token ids of a prompt. Raises ApiError for one that is longer than the context."""
        # in a thread: long texts take long, and the other replies go on meanwhile
        token_ids = await asyncio.to_thread(encode_prompt, self.client.bundle, prompt, raw=raw)
        limits = await self.limits()
        if len(token_ids) > limits.max_length:
            raise ApiError(
                400,
                f"the prompt has {len(token_ids)} tokens; the model's context is "
                f"{limits.max_length}",
                code="context_length_exceeded",
            )
        return token_ids

    def generate(
        self, request: CompletionRequest, token_ids: list[int], limits: Limits, index: int
    ) -> Pieces:
        """The pieces of one choice."""
        sampling = request.sampling
        options: Options = {
            "max_new_tokens": request.max_tokens or _room(len(token_ids), limits),
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": None if sampling.seed is None else sampling.seed + index,
            "stop": request.stop,
            "ignore_eos": request.ignore_eos,
            "wait": self._wait,
            "top_logprobs": request.logprobs or 0,
            "logits_processors": processors(
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                logit_bias=sampling.logit_bias,
                prompt_length=len(token_ids),
                vocab_size=self.client.bundle.manifest.model.vocab_size,
            ),
        }
        return self.client.generate(token_ids, keep=True, **options)

    async def limits(self) -> Limits:
        """What the server accepts, asked for once."""
        if self._limits is None:
            self._limits = (await self.client.model_info()).limits
        return self._limits


def _room(prompt_length: int, limits: Limits) -> int:
    """How many tokens a reply may have where the request does not say.

    It fills a session of the length that the server gives by default, or has DEFAULT_REPLY_TOKENS
    where that is more; a session for the model's whole context might take all of the server's
    memory for one conversation.
    """
    length = max(limits.default_length, prompt_length + DEFAULT_REPLY_TOKENS)
    # the last token is never sent back, so one more than the session holds may be generated
    return min(length, limits.max_length) - prompt_length + 1
