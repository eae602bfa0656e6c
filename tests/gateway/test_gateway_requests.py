"""What the gateway takes for a request, and what it refuses by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stip_client.gateway.errors import ApiError
from stip_client.gateway.requests import CompletionRequest, parse_chat, parse_completion

MESSAGES = [{"role": "user", "content": "Hello!"}]


def chat(**members: Any) -> CompletionRequest:
    return parse_chat(json.dumps({"model": "m", "messages": MESSAGES, **members}).encode())


def completion(**members: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hello!", **members}).encode())


def test_defaults_are_those_of_openai() -> None:
    request = chat()
    assert request.sampling.temperature == 1
    assert request.sampling.top_p == 1
    assert (request.n, request.max_tokens, request.stop) == (1, None, ())
    assert request.logprobs is None
    assert not request.stream
    assert not request.raw
    assert completion().raw


def test_null_is_as_good_as_absent() -> None:
    names = ("temperature", "n", "max_tokens", "stop", "seed", "logit_bias", "stream", "tools")
    assert chat(**dict.fromkeys(names)) == chat()


def test_members_that_concern_openai_alone_are_ignored() -> None:
    ignored = {
        "user": "someone",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "tools": [],
        "tool_choice": "none",
        "never_heard_of": 1,
    }
    assert chat(**ignored) == chat()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {"a": 1}),
        ("guided_json", {"type": "object"}),
    ],
)
def test_what_would_change_the_reply_is_refused(member: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{member: value})
    assert caught.value.status == 400
    assert caught.value.param == member
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("model", None),
        ("model", 1),
        ("messages", None),
        ("messages", []),
        ("messages", "Hello!"),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", 10**400),
        ("top_p", -0.1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("seed", 1.5),
        ("seed", 2**64),
        ("n", 0),
        ("n", 129),
        ("max_tokens", 0),
        ("max_completion_tokens", True),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ["a", 1]),
        ("stop", ""),
        ("stop", {}),
        ("stop", "\ud800"),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("logprobs", 3),
        ("top_logprobs", 2),
        ("logit_bias", [1]),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"9" * 5000: 1}),
    ],
)
def test_value_that_is_wrong_is_named(member: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        chat(**{member: value})
    assert caught.value.status == 400
    assert caught.value.param == member
    assert len(str(caught.value)) < 200


def test_bias_out_of_range_is_named_with_its_token() -> None:
    with pytest.raises(ApiError) as caught:
        chat(logit_bias={"5": 101})
    assert caught.value.param == "logit_bias.5"


def test_both_names_of_the_length_are_one() -> None:
    assert chat(max_tokens=5).max_tokens == 5
    assert chat(max_completion_tokens=5).max_tokens == 5
    assert chat(max_completion_tokens=5, max_tokens=5).max_tokens == 5
    with pytest.raises(ApiError):
        chat(max_completion_tokens=5, max_tokens=6)


def test_content_is_text_or_its_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    assert chat(messages=[{"role": "user", "content": parts}]).prompts == chat().prompts
    instructions = chat(messages=[{"role": "developer", "content": "Be kind."}, *MESSAGES])
    assert instructions.prompts[0][0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hello!", "messages[0]"),
        ({"content": "Hello!"}, "messages[0].role"),
        ({"role": "stranger", "content": "Hello!"}, "messages[0].role"),
        ({"role": "tool", "content": "5"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content"),
        ({"role": "user", "content": ["Hello!"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "messages[0].tool_calls"),
    ],
)
def test_message_that_is_wrong_is_named(message: object, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat(messages=[message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_prompt_has_four_forms(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [None, [], 5, ["a", 1], [1, "a"], [-1], [True], [[1], 2], {}])
def test_prompt_of_another_form_is_refused(prompt: object) -> None:
    with pytest.raises(ApiError) as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    "members", [{"suffix": "end"}, {"best_of": 2}, {"echo": True, "logprobs": 1}]
)
def test_completion_refuses_what_it_cannot_do(members: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**members)
    assert caught.value.code == "unsupported_parameter"


def test_top_p_of_0_is_the_likeliest_token() -> None:
    sampling = chat(top_p=0).sampling
    assert (sampling.temperature, sampling.top_p) == (0, 1)


def test_seed_may_be_negative() -> None:
    seeds = {chat(seed=seed).sampling.seed for seed in (-1, 0, 1)}
    assert len(seeds) == 3
    assert min(seed for seed in seeds if seed is not None) >= 0
