"""Request bodies as typed values. A member that is not understood is refused, never guessed.

Members that would change the reply and are not supported are errors. Members that only concern
OpenAI's own service (user, metadata, store, service_tier ...) are ignored. null means absent.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from stip_client.bundle.chat_template import Message
from stip_client.gateway.errors import invalid

MAX_STOP_STRINGS = 4
MAX_INT32 = 2**31 - 1
# OpenAI calls system messages "developer" messages for reasoning models; templates do not.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
UNSUPPORTED = "unsupported_parameter"
Prompt = str | tuple[int, ...] | tuple[Message, ...]

# -- what a member may hold: a phrase of a PydanticCustomError follows the member's name -----------


def _only(*accepted: object) -> AfterValidator:
    """Accept these values, which change nothing, and refuse all others as unsupported."""

    def check(value: object) -> None:
        if value not in accepted:
            shown = " or ".join(map(json.dumps, accepted))
            raise PydanticCustomError(UNSUPPORTED, f"is supported only as {shown}")

    return AfterValidator(check)


def _refuse_content(value: object) -> None:
    if value:
        raise PydanticCustomError(UNSUPPORTED, "is not supported by this gateway")


def _valid_unicode(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("surrogate", "holds half of a surrogate pair, which is not text")
    return text


def _role(role: str) -> str:
    if role in ("tool", "function"):
        raise PydanticCustomError(UNSUPPORTED, "is a tool's; tools are not supported")
    if role not in ROLES:
        raise PydanticCustomError("role", f"must be one of {', '.join(ROLES)}")
    return ROLES[role]


def _biases(members: dict[str, Any]) -> dict[int, float]:
    """Read one entry at a time: a large object of wrong entries would make as many errors."""
    biases: dict[int, float] = {}
    for name, bias in members.items():
        biases |= _BIAS.validate_python({name: 0.0 if bias is None else bias})
    return biases


def _content(content: object) -> str:
    """The text of a message: a string, or the texts of its parts."""
    if isinstance(content, list):
        return "".join(part.text for part in _PARTS.validate_python(content))
    return _TEXT.validate_python(content)


def _conversation(messages: object) -> tuple[tuple[Message, ...]]:
    """The one prompt of a chat."""
    read = _MESSAGES.validate_python(messages)
    return (tuple({"role": each.role, "content": each.content} for each in read),)


def _stop_strings(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _prompt_list(value: object) -> object:
    """One prompt (a text or token ids) or several, as a tuple of texts or of tuples."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    if not isinstance(value, list):
        return value
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


_FAIL_FAST = Field(fail_fast=True)
Text = Annotated[str, AfterValidator(_valid_unicode)]
Unsupported = Annotated[Any, AfterValidator(_refuse_content)]
Length = Annotated[int, Field(ge=1, le=MAX_INT32)]
Choices = Annotated[int, Field(ge=1, le=128)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenIds = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_INT32)], ...], _FAIL_FAST]
Prompts = Annotated[tuple[Text, ...], _FAIL_FAST] | Annotated[tuple[TokenIds, ...], _FAIL_FAST]
TokenName = Annotated[str, Field(pattern="^[0-9]{1,9}$"), AfterValidator(int)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class _Object(BaseModel):
    """A JSON object. Unknown members are ignored; no type is converted into another."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: member for name, member in value.items() if member is not None}


class SamplingFields(_Object):
    """How tokens are chosen, under the names of the API; the defaults are OpenAI's."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    # vLLM's -1 means all tokens, as 0 does
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT32), AfterValidator(lambda k: max(0, k))] = 0
    min_p: Probability = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[Any, Any], AfterValidator(_biases)] = Field(default_factory=dict)
    # a generator's seed has no sign: modulo 2**64 each integer keeps a seed of its own
    seed: (
        Annotated[int, Field(ge=-(2**63), le=2**64 - 1), AfterValidator(lambda n: n % 2**64)] | None
    ) = None

    @model_validator(mode="after")
    def _top_p_of_0_is_greedy(self) -> SamplingFields:
        # the smallest set of tokens that reaches probability 0 is the likeliest token
        if self.top_p == 0:
            self.temperature, self.top_p = 0.0, 1.0
        return self


class Part(_Object):
    """A part of a message's content."""

    type: Annotated[str, _only("text")] = Field("", validate_default=True)
    text: Text


class ChatMessage(_Object):
    """One message of a chat; its role is one that chat templates know."""

    role: Annotated[str, AfterValidator(_role)]
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    content: Annotated[str, PlainValidator(_content)]


class StreamOptions(_Object):
    """`stream_options`."""

    include_usage: bool = False


class _Request(_Object):
    """What both kinds of request share: `n` choices for each prompt."""

    functions: Unsupported = None
    audio: Unsupported = None
    web_search_options: Unsupported = None
    grammar: Unsupported = None
    json_schema: Unsupported = None
    guided_json: Unsupported = None
    guided_regex: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    structured_outputs: Unsupported = None
    min_tokens: Unsupported = None
    stop_token_ids: Unsupported = None
    model: Text
    n: Choices = 1
    # None: as many as fit
    max_tokens: Length | None = None
    stop: Annotated[
        tuple[Annotated[Text, Field(min_length=1)], ...],
        Field(fail_fast=True, max_length=MAX_STOP_STRINGS),
        BeforeValidator(_stop_strings),
    ] = ()
    stream: bool = False
    stream_options: Annotated[
        StreamOptions | None, BeforeValidator(lambda options: None if options == {} else options)
    ] = None
    ignore_eos: bool = False
    sampling: SamplingFields
    prompts: tuple[Prompt, ...]

    @property
    def choices(self) -> int:
        """The number of replies."""
        return len(self.prompts) * self.n

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="before")
    @classmethod
    def _sampling_reads_the_same_members(cls, members: dict[str, Any]) -> dict[str, Any]:
        return {**members, "sampling": members}

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            invalid("stream_options", "stream_options needs stream to be true")
        return self


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions.

    `logprobs` is how many alternatives to report for each token; None: no log-probabilities.
    """

    raw: ClassVar[bool] = False  # the prompt goes through the chat template
    echo: ClassVar[bool] = False
    tools: Unsupported = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    modalities: Annotated[Any, _only([], ["text"])] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    prompts: Annotated[tuple[tuple[Message, ...]], PlainValidator(_conversation)] = Field(
        alias="messages"
    )
    wants_logprobs: bool = Field(False, alias="logprobs")
    logprobs: TopLogprobs | None = Field(None, alias="top_logprobs")
    max_completion_tokens: Length | None = None

    @model_validator(mode="after")
    def _members_agree(self) -> ChatRequest:
        if self.logprobs and not self.wants_logprobs:
            invalid("top_logprobs", "top_logprobs needs logprobs to be true")
        self.logprobs = (self.logprobs or 0) if self.wants_logprobs else None
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            invalid("max_tokens", "max_completion_tokens and max_tokens differ")
        self.max_tokens = self.max_completion_tokens = self.max_completion_tokens or self.max_tokens
        return self


class TextRequest(_Request):
    """The body of POST /v1/completions; `logprobs` as with chats."""

    raw: ClassVar[bool] = True
    suffix: Unsupported = None
    best_of: Choices | None = None
    echo: bool = False  # whether the text begins with the prompt
    logprobs: TopLogprobs | None = None
    prompts: Annotated[Prompts, Field(min_length=1), BeforeValidator(_prompt_list)] = Field(
        alias="prompt"
    )

    @model_validator(mode="after")
    def _members_agree(self) -> TextRequest:
        if self.best_of not in (None, self.n):
            invalid("best_of", "best_of other than n is not supported", UNSUPPORTED)
        if self.echo and self.logprobs is not None:
            invalid("echo", "echo together with logprobs is not supported", UNSUPPORTED)
        return self


CompletionRequest = ChatRequest | TextRequest
_STRICT = ConfigDict(strict=True)
_TEXT: TypeAdapter[str] = TypeAdapter(Text, config=_STRICT)
_BIAS: TypeAdapter[dict[Any, float]] = TypeAdapter(dict[TokenName, Bias], config=_STRICT)
_PARTS: TypeAdapter[list[Part]] = TypeAdapter(Annotated[list[Part], _FAIL_FAST], config=_STRICT)
_MESSAGES: TypeAdapter[list[ChatMessage]] = TypeAdapter(
    Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1)], config=_STRICT
)


# -- refusals --------------------------------------------------------------------------------------

_R = TypeVar("_R", bound=_Request)
# Members of several forms: a wrong value has an error for each form, in words of pydantic's.
_FORMS = {
    "stop": f"must be a string or a list of up to {MAX_STOP_STRINGS} strings, none of them empty",
    "prompt": "must be a string, a list of strings, or token ids",
}
# In place of pydantic's texts, which name Python's types.
_PHRASES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "missing": "is missing",
    "string_pattern_mismatch": "has a key that is not a token id",
    "too_short": "must not be empty",
}


def parse_chat(body: bytes) -> ChatRequest:
    """The body of POST /v1/chat/completions. Raises ApiError."""
    return _parse(ChatRequest, body)


def parse_completion(body: bytes) -> TextRequest:
    """The body of POST /v1/completions. Raises ApiError."""
    return _parse(TextRequest, body)


def _parse(kind: type[_R], body: bytes) -> _R:
    try:
        members = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        # the parser's message may quote the body
        invalid(None, "the body is not valid JSON", "invalid_json")
    if not isinstance(members, dict):
        invalid(None, "the body is not a JSON object", "invalid_json")
    try:
        return kind.model_validate(members)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
    return _refuse(min(errors, key=lambda each: each["type"] != UNSUPPORTED))


def _refuse(error: ErrorDetails) -> NoReturn:
    kind, path = error["type"], error["loc"]
    phrase = _PHRASES.get(kind) or error["msg"].replace("Input should be", "must be")
    if path[0] == "sampling":
        path = path[1:]
    if path[0] in _FORMS and kind != "missing":
        path, phrase = path[:1], _FORMS[str(path[0])]
    elif "[key]" in path:
        path = path[:1]
    param = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path)[1:]
    code = UNSUPPORTED if kind == UNSUPPORTED else None
    if kind == "missing" and len(path) == 1:
        code = "missing_required_parameter"
    invalid(param, f"{param} {phrase}", code)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity: Python's parser takes them, JSON has none
