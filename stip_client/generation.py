"""The generation loop without any I/O: both clients drive this same state machine.

while (tokens := generation.next_tokens()) is not None:
    piece = generation.take(<forward tokens, asking for generation.wanted>)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Literal

from stip_client.bundle import ClientBundle
from stip_client.chat_template import Message
from stip_client.errors import RequestError, ServerError
from stip_client.profile import StepProfile
from stip_client.protocol import LogitsWanted, Reply
from stip_client.sampling import Sampler, SamplingParameters
from stip_client.text import TextStream

FinishReason = Literal["stop", "length"]
Prompt = str | Sequence[int] | Sequence[Message]


@dataclass(frozen=True)
class Piece:
    """One generated token and the text that became certain with it (possibly none).

    `text` is empty where the bundle has no tokenizer. `finish_reason` is set on the last piece:
    "stop" for an end token or a stop string, "length" otherwise. `received` holds the first ten
    floats that the server says it received for this token's step, where they were asked for.
    """

    text: str
    token_id: int
    logprob: float
    profile: StepProfile
    finish_reason: FinishReason | None = None
    received: tuple[float, ...] = ()


@dataclass(frozen=True)
class GenerationParameters:
    """What to generate. `stop` strings end the reply and are not part of it."""

    max_new_tokens: int = 32
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop: Sequence[str] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more")


def encode_prompt(bundle: ClientBundle, prompt: Prompt, *, raw: bool = False) -> list[int]:
    """The token ids of a prompt.

    Text becomes the user's message in the bundle's chat template, where it has one and `raw` is
    false, and is tokenized as it is otherwise. A list of messages goes through the template; token
    ids are taken as they are. Raises RequestError for an empty prompt.
    """
    if isinstance(prompt, str):
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            # how Python represents bytes that are not UTF-8; the tokenizer takes no such text
            raise RequestError("the prompt is not valid UTF-8 text")
        if raw or bundle.chat_template is None:
            token_ids: list[int] = bundle.tokenizer.encode(prompt).ids
            return _not_empty(token_ids)
        prompt = [{"role": "user", "content": prompt}]
    messages = [each for each in prompt if isinstance(each, Mapping)]
    if not messages:
        try:
            return _not_empty([index(each) for each in prompt])  # type: ignore[arg-type]
        except TypeError:
            raise RequestError("a prompt is text, token ids or messages") from None
    if len(messages) != len(prompt):
        raise RequestError("a prompt of messages holds nothing else")
    if bundle.chat_template is None:
        raise RequestError("this bundle has no chat template for a list of messages")
    text = bundle.chat_template.render(messages)
    # the template writes the special tokens itself
    return _not_empty(bundle.tokenizer.encode(text, add_special_tokens=False).ids)


class Generation:
    """One reply, token by token."""

    def __init__(
        self,
        bundle: ClientBundle,
        prompt: Sequence[int],
        parameters: GenerationParameters,
        *,
        max_length: int,
    ) -> None:
        """`prompt` holds the tokens to send first, `max_length` what the session may hold."""
        self._parameters = parameters
        self._eos = frozenset() if parameters.ignore_eos else bundle.eos_token_ids
        self._sampler = Sampler(parameters.sampling)
        has_text = (bundle.folder / "tokenizer.json").exists()
        self._text = TextStream(bundle.tokenizer, parameters.stop) if has_text else None
        if parameters.stop and not has_text:
            raise RequestError("stop strings need a tokenizer, and this bundle has none")
        self._history = list(prompt)
        self._pending: list[int] | None = list(prompt)
        self._generated = 0
        # the last token is never sent back, so one more than the session holds may be generated
        self._budget = min(parameters.max_new_tokens, max_length - len(prompt) + 1)
        self.wanted: LogitsWanted = parameters.sampling.wanted(bundle.manifest.model.vocab_size)

    def next_tokens(self) -> list[int] | None:
        """The tokens to forward next; None when the reply is finished."""
        return self._pending

    def take(self, reply: Reply) -> Piece:
        """Choose the next token from the logits of the last tokens forwarded."""
        if reply.logits is None:
            raise ServerError("the server sent no logits")
        token, logprob = self._sampler.sample(reply.logits, self._history)
        self._generated += 1
        self._history.append(token)
        text, finish = "", self._finish_reason(token)
        if self._text is not None and token not in self._eos:
            text = self._text.push(token)
            if self._text.stopped:
                finish = "stop"
        if finish is not None and self._text is not None:
            text += self._text.flush()
        self._pending = None if finish else [token]
        return Piece(text, token, logprob, reply.profile, finish, reply.received)

    def _finish_reason(self, token: int) -> FinishReason | None:
        if token in self._eos:
            return "stop"
        return "length" if self._generated >= self._budget else None


def _not_empty(token_ids: list[int]) -> list[int]:
    if not token_ids:
        raise RequestError("the prompt is empty")
    return token_ids
