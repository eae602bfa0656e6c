"""What `generate` and `chat` take, with the defaults; the sampling options' are in sampling/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, cast

from stip_client.errors import RequestError
from stip_client.sampling.drafting import Draft, DraftLength
from stip_client.sampling.parameters import LogitsProcessor, SamplingParameters


@dataclass(frozen=True)
class GenerationParameters:
    """What to generate.

    stop: strings that end the reply and are not part of it. draft: how many tokens to guess in
    advance, "auto", "off" or a number (drafting.py). echo: ask the server for the first ten floats
    that it received. Raises RequestError for a value out of range.
    """

    max_new_tokens: int = 32
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    draft: Draft = "auto"
    echo: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
        DraftLength(self.draft)  # refuses any other value


class Options(TypedDict, total=False):
    """The keyword arguments of `generate`: the fields of both classes, and `wait`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: Sequence[str]
    ignore_eos: bool
    draft: Draft
    echo: bool
    top_logprobs: int
    logits_processors: Sequence[LogitsProcessor]
    wait: float


_SAMPLING = {each.name for each in fields(SamplingParameters)}


def generation_parameters(options: Options) -> GenerationParameters:
    """The parameters that the options give.

    Raises TypeError for an unknown name and RequestError for a value out of range.
    """
    if unknown := set(options) - set(Options.__annotations__):
        raise TypeError(f"generate() got an unexpected keyword argument {min(unknown)!r}")
    given: Mapping[str, Any] = cast(Mapping[str, Any], options)
    sampling = {name: value for name, value in given.items() if name in _SAMPLING}
    others = {k: v for k, v in given.items() if k not in _SAMPLING and k != "wait"}
    return GenerationParameters(sampling=SamplingParameters(**sampling), **others)
