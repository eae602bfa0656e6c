"""What attackers see, made here from checkpoints: masked traffic, bundles and activations.

The permuted bundles are what `stip-keys convert` writes; rotations are those of rotations.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stip.v1.manifest_pb2 import Head, ModelConfig, Scheme
from stip_keys.audit.attack import (
    Activations,
    Attacker,
    Findings,
    Language,
    PublicModel,
    SeenConversation,
    View,
)
from stip_keys.audit.evidence.numpy_decoder import Decoder
from stip_keys.convert.checkpoint import Checkpoint, StoredTensors
from stip_keys.masks.key_file import read_client_key
from tests.support.attack.rotations import rotate_model
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.parties import convert

NONE, PERMUTATION, ROTATION = (
    Scheme.SCHEME_NONE,
    Scheme.SCHEME_PERMUTATION,
    Scheme.SCHEME_ROTATION,
)
SERVER, CLIENT, SEALED = Head.HEAD_SERVER, Head.HEAD_CLIENT, Head.HEAD_SEALED
DEMO = Path(__file__).parents[3] / "stip_client" / "cli" / "demo_model"
SEEDS = (0, 1, 2)

QUESTIONS = (
    "Hello, how are you?",
    "What is the capital of France?",
    "How many legs does a spider have?",
    "Can the server read my prompt?",
    "Repeat after me: the cat sat on the mat",
    "What colour is the sky?",
    "What is 3 plus 4?",
    "How do you say hello in Japanese?",
    "What is the opposite of hot?",
    "Tell me a joke.",
    "Who holds the key?",
    "What is the plural of mouse?",
)
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Model:
    """A checkpoint: where it lies, and what anyone who has it can compute."""

    folder: Path
    public: PublicModel

    @property
    def config(self) -> ModelConfig:
        return self.public.config


def read_model(folder: Path) -> Model:
    config, tensors = Checkpoint(folder).config, StoredTensors.of_folder(folder)
    embedding = tensors["model.embed_tokens.weight"].astype(np.float16)
    kept = {name: tensors[name] for name in tensors}  # small here, and attacks look often
    return Model(folder, PublicModel(config, Decoder(config, kept), embedding, kept))


@cache
def demo_model() -> Model:
    return read_model(DEMO)


def wrong_model(right: Model, seed: int = 99) -> PublicModel:
    """Another checkpoint of the same shape: weights of the same scales, drawn anew."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: (tensor.mean() + tensor.std() * rng.standard_normal(tensor.shape))
        .astype(np.float16)
        .astype(np.float32)
        for name, tensor in right.public.tensors.items()
    }
    embedding = tensors["model.embed_tokens.weight"].astype(np.float16)
    return PublicModel(right.config, Decoder(right.config, tensors), embedding, tensors)


@dataclass(frozen=True)
class Masked:
    """A model as its server holds it, and the client's mask."""

    tensors: Tensors
    config: ModelConfig
    scheme: Scheme
    head: Head
    mask: NDArray[np.float32]  # [hidden_size, hidden_size], from the right
    key: Mapping[str, NDArray[Any]]

    def sent(self, embedding: NDArray[np.float16], tokens: Sequence[int]) -> NDArray[np.float16]:
        rows = embedding[np.asarray(tokens)].astype(np.float32)
        return (rows @ self.mask).astype(np.float16)


def mask_model(
    model: Model, folder: Path, scheme: Scheme = PERMUTATION, head: Head = SERVER, seed: int = 0
) -> Masked:
    rng = np.random.default_rng(seed)
    key: dict[str, NDArray[Any]] = {}
    if scheme == ROTATION:
        tensors, mask = rotate_model(model.public, rng, key)
    else:
        how = ("--scheme", "none") if scheme == NONE else ("--base-seed", seed)
        bundles = folder / "-".join(["bundles", *map(str, how)])
        if not bundles.exists():
            convert(model.folder, bundles, *how)
        stored = StoredTensors.of_folder(bundles / "server")
        tensors = {name: stored[name] for name in stored}
        p_0 = read_client_key(bundles / "client" / "client.key").input_permutation()
        mask = np.eye(model.config.hidden_size, dtype=np.float32)[:, p_0]
        key["residual/0"] = p_0
    if head == CLIENT:
        del tensors["lm_head.weight"]
        tensors.pop("model.norm.weight", None)
    elif head == SEALED:
        key["vocabulary"] = rng.permutation(model.config.vocab_size)
        tensors["lm_head.weight"] = tensors["lm_head.weight"][key["vocabulary"]]
    return Masked(tensors, model.config, scheme, head, mask, key)


# -- what is said ---------------------------------------------------------------------------


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO / "tokenizer.json"))


TEMPLATE = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def template() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    before, after = (np.array(_tokenizer().encode(text).ids) for text in TEMPLATE)
    return before, after


def chats(seed: int, count: int = 4) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts for the demo model in its template, and all others: each seed chooses `count`."""
    order = np.random.default_rng(seed).permutation(len(QUESTIONS))
    prompts = [_tokenizer().encode(QUESTIONS[k].join(TEMPLATE)).ids for k in order]
    return prompts[:count], prompts[count:]


def random_prompts(config: ModelConfig, seed: int, count: int = 4, length: int = 20) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.integers(config.vocab_size, size=length).tolist() for _ in range(count)]


@dataclass(frozen=True)
class Said:
    """One conversation in plain: the prompt's tokens and the reply's."""

    prompt: list[int]
    reply: list[int]

    @property
    def rows(self) -> list[int]:
        """The tokens whose rows are sent: the reply's last is not."""
        return (self.prompt + self.reply)[:-1]


def say(model: Model, prompts: Sequence[list[int]], length: int = 8) -> list[Said]:
    """Greedy replies of the plain model."""
    decoder, embedding = model.public.decoder, model.public.embedding
    said = []
    for prompt in prompts:
        prefix, reply = decoder.prefix(), []
        states = decoder.extend([prefix], [embedding[prompt]])[0]
        while True:
            logits = decoder.normalised(states[-1:]) @ decoder.head().T
            reply.append(int(logits.argmax()))
            if len(reply) == length:
                break
            states = decoder.extend([prefix], [embedding[reply[-1:]]])[0]
        said.append(Said(list(prompt), reply))
    return said


def view(masked: Masked, model: Model, said: Sequence[Said]) -> View:
    """Everything that any attacker sees of conversations, computed by the masked weights."""
    decoder = Decoder(masked.config, masked.tensors)
    sent = [masked.sent(model.public.embedding, each.rows) for each in said]
    states = list(decoder.hidden_states(sent))
    scores = decoder.scores(sent)
    conversations, activations = [], []
    for k, each in enumerate(said):
        answers = decoder.normalised(states[-1][k][len(each.prompt) - 1 :])
        if masked.head != CLIENT:
            answers = answers @ masked.tensors["lm_head.weight"].T
        conversations.append(
            SeenConversation(sent[k], answers.astype(np.float16), len(each.prompt))
        )
        activations.append(Activations([of_layer[k] for of_layer in states], scores[k]))
    return View(
        masked.scheme,
        masked.head,
        conversations,
        model.public,
        masked.tensors,
        masked.config,
        activations,
    )


def known_to(attacker: Attacker, seen: View, **more: Any) -> View:
    """What one attacker sees of it; `more` is what it knows besides."""
    if attacker not in (Attacker.WIRE, Attacker.HOST):
        seen = replace(seen, public=None)
    if attacker not in (Attacker.HOST, Attacker.HOST_WITHOUT_MODEL):
        seen = replace(seen, bundle=None, config=None, activations=None)
    return replace(seen, **more)


def language(texts: Sequence[Sequence[int]], vocab_size: int) -> Language:
    """The counts of tokens and pairs in texts."""
    bigrams: dict[tuple[int, int], int] = {}
    for text in texts:
        for pair in pairwise(text):
            bigrams[pair] = bigrams.get(pair, 0) + 1
    joined = np.concatenate([np.asarray(text) for text in texts])
    return Language(np.bincount(joined, minlength=vocab_size), bigrams)


# -- how much was found -----------------------------------------------------------------------


def prompts_found(found: Findings, said: Sequence[Said], width: int = 1) -> float:
    """The share of the prompts' tokens that are among the first `width` candidates."""
    return _share(found.tokens, [each.rows[: len(each.prompt)] for each in said], width)


def rows_found(found: Findings, said: Sequence[Said], width: int = 1) -> float:
    """The share of all tokens sent."""
    return _share(found.tokens, [each.rows for each in said], width)


def replies_found(found: Findings, said: Sequence[Said], width: int = 1) -> float:
    """The share of the replies' tokens, by the answers that choose them."""
    return _share(found.replies, [each.reply for each in said], width)


def _share(found: Sequence[Any], expected: Sequence[list[int]], width: int) -> float:
    if not found:
        return 0.0
    right = [
        (candidates[: len(tokens), :width] == np.array(tokens)[:, None]).any(axis=1)
        for candidates, tokens in zip(found, expected, strict=True)
    ]
    return float(np.concatenate(right).mean())


def random_model(folder: Path, **changes: Any) -> Model:
    """A random checkpoint, tied, of a few hundred tokens."""
    shape: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "vocab_size": 1024,
    }
    return read_model(RandomCheckpoint(**{**shape, **changes}).write(folder))
