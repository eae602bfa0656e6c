"""Text comes piece by piece: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stip_client.errors import RequestError
from stip_client.sampling.detokenizer import TextStream


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Every token is one byte, so that every other character is split over tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(tokenizer, stop)
    found = []
    for token in tokenizer.encode(text).ids:
        found.append(stream.push(token))
        if stream.stopped:
            return found
    return [*found, stream.flush()]


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "日本語です", "a 👩‍👩‍👧‍👦 family 🇯🇵", "a � b"]
)
def test_characters_split_over_tokens_come_whole(tokenizer: Tokenizer, text: str) -> None:
    found = pieces(tokenizer, text)
    assert "".join(found) == text
    if "�" not in text:
        assert not any("�" in piece for piece in found)


def test_an_incomplete_character_at_the_end_is_not_shown(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    tokens = tokenizer.encode("ok 😀").ids[:-1]
    assert "".join(stream.push(token) for token in tokens) + stream.flush() == "ok "


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(tokenizer: Tokenizer) -> None:
    assert "".join(pieces(tokenizer, "one two three", ("two",))) == "one "


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_certain(
    tokenizer: Tokenizer,
) -> None:
    found = pieces(tokenizer, "a STOPPING place", ("STOPPED",))
    assert "".join(found) == "a STOPPING place"
    shown = ""
    for piece in found[:6]:  # up to "a STOP"
        shown += piece
    assert shown == "a "


def test_the_first_of_several_stop_strings_wins(tokenizer: Tokenizer) -> None:
    assert "".join(pieces(tokenizer, "x\n\ny END", ("END", "\n\n"))) == "x"


def test_random_texts_come_out_as_they_are_cut_at_the_stop(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(200):
        text = "".join(rng.choice("aab é😀") for _ in range(30))
        stop = "".join(rng.choice("ab ") for _ in range(3))
        expected = text.split(stop)[0]
        assert "".join(pieces(tokenizer, text, (stop,))) == expected


def test_an_empty_stop_string_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="empty"):
        TextStream(tokenizer, ("",))


@pytest.fixture(scope="module")
def with_byte_fallback() -> Tokenizer:
    """As Llama 2's: bytes that are no token of their own, and a mark for a space."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {"\u2581a": 256, "b": 257, "\u2581": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def test_bytes_that_are_no_text_are_no_error(with_byte_fallback: Tokenizer) -> None:
    draw = random.Random(3)
    for _ in range(500):
        stream = TextStream(with_byte_fallback)
        for token in draw.choices([0x0A, 0xE2, 0x82, 0xAC, 0x41, 256, 257, 258], k=12):
            stream.push(token)
        stream.flush()


def test_bytes_that_are_text_come_whole(with_byte_fallback: Tokenizer) -> None:
    stream = TextStream(with_byte_fallback)
    tokens = [256, *"€ 日本".encode(), 257, 0x0A, 257]
    found = [stream.push(token) for token in tokens]
    assert "".join(found) == "a€ 日本b\nb"
    assert not any("\ufffd" in piece for piece in found)


def test_text_that_never_becomes_any_is_given_up_on(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    byte = tokenizer.encode("é").ids[1]
    assert any(stream.push(byte) for _ in range(40))
