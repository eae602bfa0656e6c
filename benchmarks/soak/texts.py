"""What the clients say, and what the server answers to it when nobody else is there."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import grpc
import numpy as np
from numpy.typing import NDArray

from stip.v1.inference_pb2 import LogitsRequest, LogitsRows, StepResult
from stip.v1.tensor_pb2 import DataType
from stip_client.bundle.client_bundle import ClientBundle
from tests.support.wire.requests import (
    ITEM_BYTES,
    WireStream,
    logits_of,
    open_request,
    step_request,
)

COUNT = 24
NEW_TOKENS = 40
SHORT, LONG = (4, 120), (200, 600)
# Rounding depends on what a step is batched with: a text with a closer choice is not used.
NEAR_TIE = 1e-2


@dataclass(frozen=True)
class Text:
    """A prompt and the tokens that greedy decoding adds to it, with their hidden states."""

    tokens: list[int]
    prompt_length: int
    rows: NDArray[np.float16]  # [len(tokens), hidden_size]

    def next_token(self, length: int) -> int | None:
        """The token that follows the first `length`, if the prompt is among them."""
        return self.tokens[length] if self.prompt_length <= length < len(self.tokens) else None


def chosen(result: StepResult) -> int:
    """The token with the largest logit of the last row."""
    indices = result.logits.indices
    if indices.data:
        return int(np.frombuffer(indices.data, np.dtype("<i4")).reshape(indices.shape)[-1, 0])
    return int(logits_of(result)[-1].argmax())


def draw_texts(channel: grpc.Channel, bundle: ClientBundle, random: Random) -> list[Text]:
    """Random prompts, a third of them long, and the server's answers to each alone."""
    texts: list[Text] = []
    while len(texts) < COUNT:
        length = random.randint(*(LONG if random.random() < 1 / 3 else SHORT))
        prompt = random.choices(range(bundle.manifest.model.vocab_size), k=length)
        if (text := _answered(channel, bundle, prompt)) is not None:
            texts.append(text)
    return texts


def _answered(channel: grpc.Channel, bundle: ClientBundle, prompt: list[int]) -> Text | None:
    """The prompt with its answer; None if a choice in it is too close."""
    two = LogitsRequest(rows=LogitsRows.LOGITS_ROWS_LAST, dtype=DataType.DATA_TYPE_FLOAT32, top_k=2)
    tokens = list(prompt)
    with WireStream(channel) as stream:
        stream.send(open_request(bundle.manifest, max_length=len(prompt) + NEW_TOKENS)).opened()
        start = 0
        for _ in range(NEW_TOKENS):
            rows = _rows(bundle, tokens[start:])
            result = stream.send(step_request(start, rows, logits=two)).result()
            values = result.logits.values
            first, second = np.frombuffer(values.data, ITEM_BYTES[values.dtype])
            if first - second < NEAR_TIE:
                return None
            start = len(tokens)
            tokens.append(chosen(result))
    return Text(tokens, len(prompt), _rows(bundle, tokens))


def _rows(bundle: ClientBundle, tokens: list[int]) -> NDArray[np.float16]:
    return bundle.masked_embeddings(tokens).astype(np.float16)
