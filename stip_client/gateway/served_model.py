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
from stip_client.gateway.settings import GatewaySettings
from stip_client.gateway.token_text import TokenText
from stip_client.session.generation import Piece
from stip_client.session.generation_options import Options

Pieces = AsyncGenerator[Piece, None]
# The default length of a reply after a long prompt.
DEFAULT_REPLY_TOKENS = 1024


class ServedModel:
    """Generates with a client, under the settings' `model_name` and `wait`.

    Raises BundleError if the bundle has no tokenizer.
    """

    def __init__(self, client: AsyncClient, settings: GatewaySettings) -> None:
        self.client = client
        manifest = client.bundle.manifest
        self.name = settings.model_name or f"{manifest.model.model_type}-{manifest.bundle_id[:8]}"
        self.created = int((client.bundle.folder / "manifest.json").stat().st_mtime)
        self.token_text = TokenText(client.bundle.tokenizer)
        self.eos_token_ids = client.bundle.eos_token_ids
        self._wait = settings.wait
        self._limits: Limits | None = None
        self._ending = False

    def end(self) -> None:
        """Let every reply end with an error from now on."""
        self._ending = True

    def check_serving(self) -> None:
        """Raise ApiError once the gateway is ending."""
        if self._ending:
            raise ApiError(503, "the gateway is ending", code="gateway_ending")

    def check_name(self, name: str) -> None:
        """Raise ApiError for another model's name."""
        if name != self.name:
            raise ApiError(
                404,
                f"the model {name!r} does not exist; this gateway serves {self.name!r}",
                param="model",
                code="model_not_found",
            )

    async def encode(self, prompt: Prompt, *, raw: bool) -> list[int]:
        """The token ids of a prompt. Raises ApiError if it is longer than the context."""
        # on a thread: a long text takes long, and other replies must go on
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
            "max_new_tokens": request.max_tokens or _default_length(len(token_ids), limits),
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
        """The server's limits, requested once."""
        if self._limits is None:
            self._limits = (await self.client.model_info()).limits
        return self._limits


def _default_length(prompt_length: int, limits: Limits) -> int:
    """The maximum length of a reply if the request gives none.

    The reply may fill a session of the server's default length, or have DEFAULT_REPLY_TOKENS if
    that is more. A session for the whole context could take all memory of the server.
    """
    length = max(limits.default_length, prompt_length + DEFAULT_REPLY_TOKENS)
    # the last token is never sent back, so a reply has one token more than the session holds
    return min(length, limits.max_length) - prompt_length + 1
