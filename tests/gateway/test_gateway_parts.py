"""The gateway's parts without a server: errors, log-probabilities, choices, events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from stip_client import ClientError, ConnectionLostError, Piece, RequestError, ServerBusyError
from stip_client.gateway import http_connection
from stip_client.gateway.app import ReplySlots
from stip_client.gateway.errors import ApiError, from_client_error
from stip_client.gateway.http_connection import ClientGone, send_events, while_connected
from stip_client.gateway.logprobs import LogprobStream, chat_logprobs
from stip_client.gateway.penalties import processors
from stip_client.gateway.running_request import interleaved
from stip_client.gateway.token_text import TokenText
from stip_client.http.loopback import is_loopback_name
from stip_client.sampling.detokenizer import TextStream
from tests.support.waiting import PATIENCE

END = 256


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Every token is one byte, and one ends a reply."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RequestError("no"), 400, None),
        (ServerBusyError("full", retry_after=2.2), 429, "3"),
        (ServerBusyError("never"), 429, None),
        (ConnectionLostError("away"), 503, None),
        (ConnectionLostError("draining", retry_after=0.1), 503, "1"),
        (ClientError("anything else"), 503, None),
    ],
)
def test_each_error_has_its_status(
    error: ClientError, status: int, retry_after: str | None
) -> None:
    answer = from_client_error(error)
    assert answer.status == status
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.body()["error"]["message"] == str(error)


def test_client_of_openai_does_not_ask_again_for_what_will_never_fit() -> None:
    assert from_client_error(ServerBusyError("never")).headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.", "127.9.9.9:80", "[::1]", "[::1]:80", "Localhost:1"]
)
def test_loopback_names(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    ["", ":80", "evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "0.0.0.0", "10.0.0.1"],
)
def test_other_names(host: str) -> None:
    assert not is_loopback_name(host)


@pytest.mark.parametrize("text", ["plain", "naïve", "日本", "👩‍👩‍👧‍👦"])
def test_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    vocabulary = TokenText(tokenizer)
    tokens = tokenizer.encode(text).ids
    assert b"".join(map(vocabulary.bytes, tokens)) == text.encode()
    for token in tokens:
        assert "\ufffd" not in vocabulary.text(token)


def test_tokens_of_sentencepiece_and_unknown_ids_have_bytes() -> None:
    words = {"<unk>": 0, "<0xE6>": 1, "\u2581Hello": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    vocabulary = TokenText(tokenizer)
    assert vocabulary.bytes(1) == b"\xe6"
    assert vocabulary.text(1) == "bytes:\\xe6"
    assert vocabulary.bytes(2) == b" Hello"
    assert vocabulary.bytes(999) == b""


def pieces(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = ()) -> list[Piece]:
    """What a generation makes of a model that says a text and ends."""
    stream = TextStream(tokenizer, stop)
    found = []
    for token in tokenizer.encode(text).ids:
        certain = stream.push(token)
        found.append(Piece(certain, token, -1.0, None, "stop" if stream.stopped else None))
        if stream.stopped:
            return found
    return [*found, Piece(stream.flush(), END, -1.0, None, "stop")]


@pytest.mark.parametrize(
    ("text", "stop", "told"),
    [
        ("a b", (), "a b"),
        ("日本語", (), "日本語"),
        ("one two three", ("two",), "one "),
        ("日本語です", ("語",), "日本"),
        ("ends with t", ("two",), "ends with t"),
        ("stop", ("st",), ""),
    ],
)
def test_logprobs_are_of_the_told_text_alone(
    tokenizer: Tokenizer, text: str, stop: tuple[str, ...], told: str
) -> None:
    vocabulary = TokenText(tokenizer)
    stream = LogprobStream(vocabulary, frozenset({END}))
    tokens, so_far = [], ""
    for piece in pieces(tokenizer, text, stop):
        so_far += piece.text
        certain = stream.push(piece)
        tokens += certain
        # never ahead of the text, but for the rest of a character
        assert len(tokens) <= len(so_far.encode())
    content = chat_logprobs(tokens, vocabulary)["content"]
    assert b"".join(bytes(each["bytes"]) for each in content).decode() == told  # type: ignore
    assert so_far == told
    assert [token.offset for token in tokens][:1] == [0][: len(tokens)]


def test_penalties_are_of_the_reply_alone() -> None:
    (penalise, bias) = processors(
        presence_penalty=1,
        frequency_penalty=0.5,
        logit_bias={3: -100},
        prompt_length=2,
        vocab_size=4,
    )
    logits = np.zeros(4, np.float32)
    # 0 and 1 are the prompt's; 1 was said twice and 2 once
    assert penalise([0, 1, 1, 1, 2], logits).tolist() == [0, -2, -1.5, 0]
    assert penalise([0, 1], logits).tolist() == [0, 0, 0, 0]
    assert bias([], logits).tolist() == [0, 0, 0, -100]
    assert logits.tolist() == [0, 0, 0, 0]
    nothing = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}}
    assert processors(**nothing, prompt_length=2, vocab_size=4) == ()  # type: ignore[arg-type]


def test_places_are_given_back() -> None:
    slots = ReplySlots(2)
    with slots.reserve(1), slots.reserve(1), pytest.raises(ApiError) as caught, slots.reserve(1):
        pass
    assert caught.value.status == 429
    with pytest.raises(RuntimeError), slots.reserve(2):
        raise RuntimeError
    with slots.reserve(2):
        pass
    with pytest.raises(ApiError) as caught, slots.reserve(3):
        pass
    assert caught.value.status == 400


class Replies:
    """Choices of some tokens; remembers when each began and whether it was closed."""

    def __init__(self, length: int = 3, fail: int | None = None) -> None:
        self._length = length
        self.began: list[tuple[int, int]] = []
        self.told = 0
        self.closed: set[int] = set()
        self._fail = fail

    async def start(self, index: int) -> AsyncGenerator[Piece, None]:
        self.began.append((index, self.told))
        try:
            for token in range(self._length):
                await asyncio.sleep(0)
                if index == self._fail and token == 1:
                    raise ConnectionLostError("away")
                self.told += 1
                yield Piece(
                    str(token), token, 0.0, None, "stop" if token == self._length - 1 else None
                )
        finally:
            self.closed.add(index)


def test_further_choices_begin_when_the_first_has_a_piece() -> None:
    async def run() -> tuple[Replies, list[int]]:
        replies = Replies()
        return replies, [index async for index, _ in interleaved(replies.start, 2, 3)]

    replies, indices = asyncio.run(run())
    assert sorted(indices) == sorted([*range(6)] * 3)
    began = dict(replies.began)
    assert began[0] == began[3] == 0
    assert all(began[index] > 0 for index in (1, 2, 4, 5))
    assert replies.closed == set(range(6))


@pytest.mark.parametrize("n", [1, 3])
def test_choices_that_are_left_are_closed(n: int) -> None:
    async def run() -> Replies:
        replies = Replies(length=10_000)
        choices = interleaved(replies.start, 1, n)
        async for index, _ in choices:
            if index == n - 1:
                break
        await choices.aclose()
        return replies

    replies = asyncio.run(run())
    assert replies.closed == set(range(n))
    assert replies.told < 1000


def test_error_of_one_choice_is_an_error_of_all() -> None:
    async def run() -> Replies:
        replies = Replies(fail=1)
        with pytest.raises(ConnectionLostError):
            async for _ in interleaved(replies.start, 1, 3):
                pass
        return replies

    replies = asyncio.run(run())
    assert replies.closed == {index for index, _ in replies.began}


async def chunks(
    count: int, error: Exception | None = None
) -> AsyncGenerator[dict[str, Any], None]:
    for number in range(count):
        yield {"number": number, "text": "\u2028日"}
    if error is not None:
        raise error


def sent_for(source: AsyncGenerator[dict[str, Any], None]) -> list[bytes]:
    """The events of an answer."""
    messages = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(send_events(source, send))
    assert messages[0]["status"] == 200
    assert not messages[-1].get("more_body")
    return b"".join(message.get("body", b"") for message in messages).split(b"\n\n")[:-1]


def test_stream_is_events_and_done() -> None:
    events = sent_for(chunks(3))
    assert events[-1] == b"data: [DONE]"
    parsed = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert [each["number"] for each in parsed] == [0, 1, 2]
    assert parsed[0]["text"] == "\u2028日"
    # no byte of an event can be taken for the end of a line
    assert all(len(event.decode().splitlines()) == 1 for event in events)


@pytest.mark.parametrize("error", [ConnectionLostError("away"), ApiError(503, "away")])
def test_error_in_mid_stream_is_the_last_event(error: Exception) -> None:
    events = sent_for(chunks(2, error))
    assert len(events) == 3
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["message"] == "away"


def test_error_before_the_first_chunk_is_no_stream() -> None:
    with pytest.raises(ConnectionLostError):
        sent_for(chunks(0, ConnectionLostError("away")))


def test_client_that_takes_nothing_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "STALLED_SECONDS", 0.05)
    left = []

    async def endless() -> AsyncGenerator[dict[str, Any], None]:
        try:
            while True:
                yield {}
        finally:
            left.append(True)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def run() -> None:
        with pytest.raises(ClientGone):
            await asyncio.wait_for(while_connected(receive, send_events(endless(), send)), PATIENCE)

    asyncio.run(run())
    assert left == [True]


def test_work_is_cancelled_until_it_ends_when_the_client_goes() -> None:
    cancelled = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def stubborn() -> None:
        """Loses its first cancellation, as wait_for does before Python 3.12."""
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)

    async def run() -> None:
        with pytest.raises(ClientGone):
            await while_connected(receive, stubborn())

    asyncio.run(run())
    assert cancelled == [True, True]


def test_work_that_is_cancelled_from_inside_is_not_taken_for_a_client_that_went() -> None:
    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(RuntimeError):
            await while_connected(receive, cancelled())

    asyncio.run(run())
