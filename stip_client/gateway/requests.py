"""Bodies of requests as typed values. Whatever is not understood is refused, never guessed.

Members that would change the reply and are not supported are errors; members that only concern
OpenAI's own service (user, metadata, store, service_tier ...) are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from stip_client.bundle.chat_template import Message
from stip_client.gateway.fields import Fields, check_text, invalid, parse_object, unsupported
from stip_client.gateway.messages import parse_messages

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 4
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1
TOKEN_ID = re.compile("[0-9]{1,9}")
MAX_SEED = 2**64 - 1
MIN_SEED = -(2**63)

# They would change the reply, and are harmless where they hold nothing.
_REFUSED = (
    "functions",
    "audio",
    "web_search_options",
    "grammar",
    "json_schema",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "min_tokens",
    "stop_token_ids",
)
Prompt = str | tuple[int, ...] | tuple[Message, ...]


@dataclass(frozen=True)
class SamplingFields:
    """How tokens are chosen, under the names of the API; the defaults are OpenAI's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """A chat or a completion that is wanted: `n` choices for each of the prompts.

    `logprobs` is how many alternatives are wanted with each token's log-probability; None: no
    log-probabilities. `max_tokens` None: as many as there is room for. `raw`: the prompt is taken
    as it is, without the chat template. `echo`: the text begins with the prompt.
    """

    model: str
    prompts: tuple[Prompt, ...]
    raw: bool
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    sampling: SamplingFields
    logprobs: int | None
    stream: bool
    include_usage: bool
    ignore_eos: bool
    echo: bool = False

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n


def parse_chat(body: bytes) -> CompletionRequest:
    """The body of POST /v1/chat/completions. Raises ApiError."""
    fields = Fields(parse_object(body))
    _refuse(fields)
    if fields.get("tools"):
        unsupported("tools")
    if fields.get("tool_choice") not in (None, "none", "auto"):
        unsupported("tool_choice")
    if fields.get("modalities") not in (None, [], ["text"]):
        unsupported("modalities", "modalities: this gateway answers with text alone")
    response_format = fields.get("response_format")
    if response_format is not None and response_format != {"type": "text"}:
        unsupported("response_format", 'response_format: only {"type": "text"} is supported')
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top and not wanted:
        invalid("top_logprobs", "top_logprobs needs logprobs to be true")
    return _request(
        fields,
        prompts=(parse_messages(fields.get("messages")),),
        raw=False,
        max_tokens=_max_tokens(fields, "max_completion_tokens", "max_tokens"),
        logprobs=(top or 0) if wanted else None,
    )


def parse_completion(body: bytes) -> CompletionRequest:
    """The body of POST /v1/completions. Raises ApiError."""
    fields = Fields(parse_object(body))
    _refuse(fields)
    if fields.get("suffix"):
        unsupported("suffix")
    best_of = fields.integer("best_of", 1, MAX_CHOICES)
    if best_of is not None and best_of != (fields.get("n") or 1):
        unsupported("best_of", "best_of other than n is not supported")
    echo = fields.flag("echo")
    logprobs = fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    if echo and logprobs is not None:
        unsupported("echo", "echo together with logprobs is not supported")
    return _request(
        fields,
        prompts=_prompts(fields.get("prompt")),
        raw=True,
        max_tokens=_max_tokens(fields, "max_tokens"),
        logprobs=logprobs,
        echo=echo,
    )


def _request(fields: Fields, **rest: Any) -> CompletionRequest:
    """What both kinds have in common, with what they have not."""
    model = fields.text("model")
    if model is None:
        invalid("model", "the request names no model", "missing_required_parameter")
    stream = fields.flag("stream")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        invalid("stream_options", "stream_options must be an object")
    if options and not stream:
        invalid("stream_options", "stream_options needs stream to be true")
    return CompletionRequest(
        model=model,
        n=fields.integer("n", 1, MAX_CHOICES) or 1,
        stop=_stop(fields.get("stop")),
        sampling=_sampling(fields),
        stream=stream,
        include_usage=Fields(options or {}, "stream_options.").flag("include_usage"),
        ignore_eos=fields.flag("ignore_eos"),
        **rest,
    )


def _sampling(fields: Fields) -> SamplingFields:
    temperature = fields.number("temperature", 1.0, 0, 2)
    top_p = fields.number("top_p", 1.0, 0, 1)
    if top_p == 0:
        # the smallest set of tokens that reaches 0 is the likeliest token
        temperature, top_p = 0.0, 1.0
    seed = fields.integer("seed", MIN_SEED, MAX_SEED)
    repetition_penalty = fields.number("repetition_penalty", 1.0, 0, 10)
    if repetition_penalty == 0:
        invalid("repetition_penalty", "repetition_penalty is 0; it must be above 0")
    return SamplingFields(
        temperature=temperature,
        top_p=top_p,
        # vLLM's -1 means all tokens, as 0 does
        top_k=max(0, fields.integer("top_k", -1, MAX_TOKEN_ID) or 0),
        min_p=fields.number("min_p", 0.0, 0, 1),
        repetition_penalty=repetition_penalty,
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        logit_bias=_logit_bias(fields.get("logit_bias")),
        # a generator's seed has no sign; each integer keeps one of its own
        seed=None if seed is None else seed % 2**64,
    )


def _refuse(fields: Fields) -> None:
    for name in fields.present(_REFUSED):
        unsupported(name)


def _max_tokens(fields: Fields, *names: str) -> int | None:
    values = {fields.integer(name, 1, MAX_TOKENS) for name in names} - {None}
    if len(values) > 1:
        invalid(names[-1], f"{' and '.join(names)} differ")
    return values.pop() if values else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list):
        invalid("stop", "stop must be a string or a list of strings")
    if len(strings) > MAX_STOP_STRINGS:
        invalid("stop", f"stop holds {len(strings)} strings; at most {MAX_STOP_STRINGS}")
    if "" in strings:
        invalid("stop", "a stop string is empty")
    return tuple(check_text("stop", each) for each in strings)


def _logit_bias(value: object) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        invalid("logit_bias", "logit_bias must be an object of token ids and numbers")
    fields = Fields(value, "logit_bias.")
    biases = {}
    for name in value:
        if not TOKEN_ID.fullmatch(name):
            invalid("logit_bias", "a key of logit_bias is not a token id")
        biases[int(name)] = fields.number(name, 0.0, -100, 100)
    return biases


def _prompts(value: object) -> tuple[Prompt, ...]:
    """A text, a list of texts, token ids, or a list of lists of token ids."""
    if value is None:
        invalid("prompt", "the request holds no prompt", "missing_required_parameter")
    if isinstance(value, str):
        return (check_text("prompt", value),)
    if not isinstance(value, list) or not value:
        invalid("prompt", "prompt must be a string, a list of strings, or token ids")
    if isinstance(value[0], str):
        return tuple(check_text("prompt", each) for each in value)
    if isinstance(value[0], list):
        return tuple(_token_ids(each) for each in value)
    return (_token_ids(value),)


def _token_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(_is_token_id, value)):
        invalid("prompt", "prompt must be a string, a list of strings, or token ids")
    return tuple(value)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_ID
