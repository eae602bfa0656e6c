"""The official OpenAI package against the gateway: what applications do, done privately."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tokenizers import Tokenizer

from tests.support.gateways import Gateway, gateway_process
from tests.support.parties import convert, run_tool
from tests.support.servers.watched import Watched, watched_server
from tests.support.waiting import PATIENCE, eventually

HELLO = "Hello, how are you?"
JAPANESE = "How do you say hello in Japanese?"
MAX_CONCURRENT = 8
MODEL = "private"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def bundles(folder: Path) -> Path:
    with resources.as_file(resources.files("stip_client") / "cli" / "demo_model") as checkpoint:
        return convert(checkpoint, folder / "demo")


@pytest.fixture(scope="module")
def server(bundles: Path, folder: Path) -> Iterator[Watched]:
    with watched_server(bundles / "server", folder) as server:
        yield server
        server.assert_no_errors()


@pytest.fixture(scope="module")
def gateway(server: Watched, bundles: Path, folder: Path) -> Iterator[Gateway]:
    arguments = ("--model-name", MODEL, "--max-concurrent", MAX_CONCURRENT)
    with gateway_process(server.address, bundles / "client", folder, *arguments) as gateway:
        yield gateway
        assert "internal error" not in gateway.log


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.url, api_key="unused", max_retries=0, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def greedy(server: Watched, bundles: Path) -> str:
    """What `stip-client generate` replies to HELLO."""
    return generated(server, bundles, HELLO)


def generated(server: Watched, bundles: Path, prompt: str) -> str:
    options = ("--server", server.address, "--bundle", bundles / "client", "--json")
    done = run_tool("stip_client", "generate", *options, "--prompt", prompt)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["text"])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def chat(client: OpenAI, text: str = HELLO, **options: Any) -> Any:
    options = {"temperature": 0, **options}
    return client.chat.completions.create(model=MODEL, messages=[user(text)], **options)


def test_model_is_listed_and_found(client: OpenAI) -> None:
    (listed,) = client.models.list().data
    assert listed.id == MODEL
    assert client.models.retrieve(MODEL) == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_chat_is_what_generate_replies(client: OpenAI, greedy: str) -> None:
    (choice,) = chat(client).choices
    assert choice.message.content == greedy
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"


def test_stream_is_the_same_text_token_by_token(client: OpenAI, greedy: str) -> None:
    chunks = list(chat(client, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == greedy
    assert len(texts) > 10
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert not any(chunk.usage for chunk in chunks)


def test_characters_of_several_tokens_come_whole(
    client: OpenAI, server: Watched, bundles: Path
) -> None:
    chunks = list(chat(client, JAPANESE, stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "こんにちは" in "".join(texts)
    assert "".join(texts) == generated(server, bundles, JAPANESE)
    assert not any("\ufffd" in text for text in texts)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", ["ne, tha", ["never said", "ine, thank"]])
def test_reply_ends_before_a_stop_string_that_straddles_tokens(
    client: OpenAI, greedy: str, stop: str | list[str], stream: bool
) -> None:
    answer = chat(client, stop=stop, stream=stream, logprobs=True)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
        logprobs = [
            token
            for chunk in chunks
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content
        ]
    else:
        (choice,) = answer.choices
        text, reason = choice.message.content, choice.finish_reason
        logprobs = choice.logprobs.content
    found = stop if isinstance(stop, str) else stop[1]
    assert text == greedy[: greedy.index(found)]
    assert reason == "stop"
    # the last token may have begun before the stop string
    assert b"".join(bytes(token.bytes) for token in logprobs).decode().startswith(text)
    assert b"".join(bytes(token.bytes) for token in logprobs[:-1]).decode() != text


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length_is_bounded_and_told(client: OpenAI, greedy: str, name: str) -> None:
    answer = chat(client, **{name: 3})
    assert answer.choices[0].finish_reason == "length"
    assert greedy.startswith(answer.choices[0].message.content)
    assert answer.usage.completion_tokens == 3
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3


def test_seed_repeats_a_choice_and_each_further_one_has_the_next_seed(client: OpenAI) -> None:
    options = {"temperature": 2, "max_tokens": 24}
    several = chat(client, n=3, seed=11, **options)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [
        chat(client, seed=seed, **options).choices[0].message.content for seed in (11, 12, 13)
    ]


def test_choices_stream_side_by_side(client: OpenAI, greedy: str) -> None:
    texts = ["", "", ""]
    order = []
    for chunk in chat(client, n=3, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        order.append(choice.index)
    assert texts == [greedy] * 3
    assert order != sorted(order)


def test_choices_share_what_a_long_prompt_has_computed(client: OpenAI) -> None:
    messages = [user("Hello! " * 20 + "Who are you?")]
    options = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 40}
    (alone,) = client.chat.completions.create(**options).choices
    several = client.chat.completions.create(n=4, extra_body={"ignore_eos": True}, **options)
    texts = [choice.message.content for choice in several.choices]
    assert texts == [texts[0]] * 4
    assert texts[0].startswith(alone.message.content)
    assert several.usage.completion_tokens == 160


def test_logprobs_are_of_the_tokens_of_the_text(client: OpenAI) -> None:
    (choice,) = chat(client, JAPANESE, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        # greedy: the token is the likeliest
        assert token.top_logprobs[0].bytes == token.bytes
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-3)
        assert token.logprob <= 0
    split = [token.token for token in tokens if token.token.startswith("bytes:")]
    assert all("\ufffd" not in token.token for token in tokens)
    assert split, "no token of this reply is part of a character: ask for another one"


def test_usage_comes_last_in_a_stream_where_asked_for(client: OpenAI) -> None:
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == chat(client).usage.model_copy(
        update={"prompt_tokens_details": last.usage.prompt_tokens_details}
    )
    assert not any(chunk.usage for chunk in chunks)


def test_conversation_that_continues_sends_only_what_is_new(client: OpenAI) -> None:
    messages = [user("What is the capital of Italy?")]
    first = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    reply = first.choices[0].message.content
    messages += [{"role": "assistant", "content": reply}, user("Thank you!")]
    second = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens < cached < second.usage.prompt_tokens


def test_content_in_parts_is_the_text(client: OpenAI, greedy: str) -> None:
    half = len(HELLO) // 2
    parts = [{"type": "text", "text": part} for part in (HELLO[:half], HELLO[half:])]
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], temperature=0
    )
    assert answer.choices[0].message.content == greedy


def test_completion_continues_each_prompt_as_it_is(client: OpenAI) -> None:
    prompts = ["<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "The capital of"]
    options = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    both = client.completions.create(prompt=prompts, **options)
    alone = [client.completions.create(prompt=prompt, **options) for prompt in prompts]
    assert [choice.text for choice in both.choices] == [each.choices[0].text for each in alone]
    assert both.usage.prompt_tokens == sum(each.usage.prompt_tokens for each in alone)
    assert both.choices[0].text == chat(client, "Hello!", max_tokens=8).choices[0].message.content
    echoed = client.completions.create(prompt=prompts[1], echo=True, **options)
    assert echoed.choices[0].text == prompts[1] + both.choices[1].text
    streamed = client.completions.create(prompt=prompts[1], stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == both.choices[1].text


def test_completion_takes_token_ids_and_tells_logprobs(client: OpenAI, bundles: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundles / "client" / "tokenizer.json"))
    ids = tokenizer.encode("The capital of France").ids
    options = {"model": MODEL, "temperature": 0, "max_tokens": 6}
    answer = client.completions.create(prompt=ids, logprobs=2, **options)
    text = client.completions.create(prompt="The capital of France", **options).choices[0].text
    (choice,) = answer.choices
    assert choice.text == text
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == text
    ends = [len("".join(logprobs.tokens[:number])) for number in range(len(logprobs.tokens))]
    assert logprobs.text_offset == ends
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert max(top.values()) == top[token] == pytest.approx(logprob, abs=1e-3)


def test_bias_and_penalties_change_the_choice(client: OpenAI, bundles: Path, greedy: str) -> None:
    tokenizer = Tokenizer.from_file(str(bundles / "client" / "tokenizer.json"))
    (first, *_) = tokenizer.encode(greedy).ids
    banned = chat(client, logit_bias={str(first): -100}).choices[0].message.content
    assert not banned.startswith(tokenizer.decode([first]))
    forced = chat(client, logit_bias={str(first): 100}, max_tokens=4).choices[0].message.content
    assert forced == tokenizer.decode([first] * 4)
    # the penalty of what has been said wins over the bias, so that another token comes in between
    options = {"logit_bias": {str(first): 20}, "max_tokens": 24}
    plain = chat(client, **options).choices[0].message.content
    penalised = chat(client, frequency_penalty=2, presence_penalty=2, **options)
    assert plain != penalised.choices[0].message.content


def test_eight_conversations_at_once_are_each_what_they_are_alone(gateway: Gateway) -> None:
    questions = [
        "Who are you?",
        "What is STIP?",
        "What is 3 plus 4?",
        "How do you say hello in Japanese?",
        "What is the capital of France?",
        "What is the capital of Italy?",
        "Hello!",
        HELLO,
    ]

    async def converse(client: AsyncOpenAI, question: str) -> list[str]:
        """Two turns, the second streamed."""
        messages = [user(question)]
        first = await client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        reply = first.choices[0].message.content or ""
        messages += [{"role": "assistant", "content": reply}, user("Please say that again.")]
        stream = await client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, stream=True
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return [reply, "".join(texts)]

    async def both() -> tuple[list[list[str]], list[list[str]]]:
        async with AsyncOpenAI(
            base_url=gateway.url, api_key="unused", max_retries=0, timeout=PATIENCE
        ) as client:
            together = await asyncio.gather(*(converse(client, each) for each in questions))
            alone = [await converse(client, each) for each in questions]
        return list(together), alone

    together, alone = asyncio.run(both())
    assert together == alone
    assert len({first for first, _ in together}) >= 7


# Tokens of a reply that no machine finishes while a test looks at its beginning.
LONG = 50_000


@pytest.fixture(scope="module")
def talking_server(talking_bundles: Path, folder: Path) -> Iterator[Watched]:
    (folder / "talking").mkdir()
    with watched_server(talking_bundles / "server", folder / "talking") as server:
        yield server
        server.assert_no_errors()


@pytest.fixture(scope="module")
def talking_gateway(
    talking_server: Watched, talking_bundles: Path, folder: Path
) -> Iterator[Gateway]:
    bundle, place = talking_bundles / "client", folder / "talking"
    arguments = ("--model-name", MODEL, "--max-concurrent", MAX_CONCURRENT)
    with gateway_process(talking_server.address, bundle, place, *arguments) as gateway:
        yield gateway
        assert "internal error" not in gateway.log


@pytest.fixture
def talking(talking_gateway: Gateway) -> Iterator[OpenAI]:
    """A client of a model that ends no reply by itself. Its gateway generates nothing before and
    after the test."""
    options: dict[str, Any] = {"api_key": "unused", "max_retries": 0, "timeout": PATIENCE}
    with OpenAI(base_url=talking_gateway.url, **options) as client:
        yield client
        eventually(lambda: nothing_is_generated(client))


def talk(client: OpenAI, **options: Any) -> Any:
    options = {"max_tokens": LONG, "stream": True, **options}
    return client.completions.create(model=MODEL, prompt="w5 w6", **options)


def steps(server: Watched) -> float:
    return server.metric("stip_tokens_total", kind="decode")


def nothing_is_generated(client: OpenAI) -> bool:
    """Whether all places are free: a place is held until the generation has ended."""
    try:
        answer = talk(client, n=MAX_CONCURRENT, max_tokens=1, stream=False)
    except openai.RateLimitError:
        return False
    return len(answer.choices) == MAX_CONCURRENT


def test_stream_that_is_left_stops_computing(talking: OpenAI, talking_server: Watched) -> None:
    before = steps(talking_server)
    stream = talk(talking)
    for _ in range(5):
        next(stream)
    stream.close()
    eventually(lambda: nothing_is_generated(talking))
    assert steps(talking_server) - before < LONG


def test_request_that_is_left_before_its_answer_stops_computing(
    talking_gateway: Gateway, talking: OpenAI, talking_server: Watched
) -> None:
    before = steps(talking_server)
    body = json.dumps({"model": MODEL, "prompt": "w5 w6", "max_tokens": LONG}).encode()
    connection = talking_gateway.connection()
    connection.request("POST", "/v1/completions", body)
    eventually(lambda: steps(talking_server) > before)
    connection.close()
    eventually(lambda: nothing_is_generated(talking))
    assert steps(talking_server) - before < LONG


def test_reply_under_way_ends_with_an_error_when_the_gateway_ends(
    talking_server: Watched, talking_bundles: Path, tmp_path: Path
) -> None:
    bundle, options = talking_bundles / "client", ("--model-name", MODEL)
    with (
        gateway_process(talking_server.address, bundle, tmp_path, *options) as gateway,
        OpenAI(base_url=gateway.url, api_key="unused", max_retries=0) as client,
    ):
        stream = talk(client)
        next(stream)
        gateway.process.terminate()
        with pytest.raises(openai.APIError, match="the gateway is ending"):
            list(stream)
        assert gateway.process.wait(PATIENCE) == 0
        assert "error" not in gateway.log


def test_more_replies_than_agreed_are_refused_for_now(talking: OpenAI) -> None:
    # places are held until the last of these replies ends
    stream = talk(talking, n=MAX_CONCURRENT)
    next(stream)
    with pytest.raises(openai.RateLimitError) as caught:
        talk(talking, n=MAX_CONCURRENT)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    stream.close()


def test_errors_are_those_of_the_package(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o"):
        client.chat.completions.create(model="gpt-4o", messages=[user(HELLO)])
    with pytest.raises(openai.BadRequestError) as tools:
        chat(client, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert (tools.value.param, tools.value.code) == ("tools", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as long:
        chat(client, "word " * 2000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(client, temperature=3)
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        chat(client, logit_bias={"999999": 1})


def test_nothing_of_what_was_said_is_logged(gateway: Gateway, client: OpenAI) -> None:
    chat(client, "Remember the word xylophone.", user="somebody")
    eventually(lambda: "POST /v1/chat/completions 200" in gateway.log)
    assert all(word not in gateway.log for word in ("xylophone", "Remember", "somebody", "unused"))
