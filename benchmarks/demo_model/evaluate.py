"""Check a written demo checkpoint with mlx-lm: answers, margins and accuracy.

    python benchmarks/demo_model/evaluate.py DIR [--size N] [--seed N]

Loads the folder with mlx-lm's own loader, as float16 and as float32, prints the greedy answers to
a few questions with the smallest margin between the best and the second-best token along the way,
and then the accuracy on the test sets of `corpus.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mlx.core as mx
from corpus import Conversation, Corpus
from mlx import nn
from mlx_lm import load
from mlx_lm.tokenizer_utils import TokenizerWrapper

QUESTIONS = (
    "Hello, how are you?",
    "Who are you?",
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What colour is the sky?",
    "How many legs does a spider have?",
    "What is 3 plus 4?",
    "What is STIP?",
    "What does the server see?",
    "Can the server read my prompt?",
    "Who holds the key?",
    "Tell me a joke.",
    "Thank you!",
    "How do you say hello in Japanese?",
    "Repeat after me: the cat sat on the mat",
    "What is the population of France?",
    "Goodbye!",
)
LONGEST = 100  # tokens


def greedy(model: nn.Module, tokenizer: TokenizerWrapper, question: str) -> tuple[str, float]:
    """The greedy answer, and the smallest lead of the chosen token over the next best."""
    ids = list(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
    )
    begin, margin = len(ids), float("inf")
    while len(ids) - begin < LONGEST:
        logits = model(mx.array([ids]))[0, -1].astype(mx.float32)
        second, first = mx.sort(logits)[-2:].tolist()
        margin = min(margin, first - second)
        token = int(mx.argmax(logits).item())
        if token in tokenizer.eos_token_ids:
            break
        ids.append(token)
    return tokenizer.decode(ids[begin:]), margin


def is_right(model: nn.Module, tokenizer: TokenizerWrapper, conversation: Conversation) -> bool:
    """Whether greedy decoding gives the conversation's last answer word for word."""
    prompt = tokenizer.apply_chat_template(
        conversation[:-1], add_generation_prompt=True, return_dict=False
    )
    answer = tokenizer.encode(conversation[-1]["content"], add_special_tokens=False)
    answer.append(tokenizer.eos_token_id)
    logits = model(mx.array([[*prompt, *answer[:-1]]]))[0, len(prompt) - 1 :]
    return mx.argmax(logits, axis=-1).tolist() == answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=400)
    parser.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    for dtype in (mx.float16, mx.float32):
        model, tokenizer = load(str(args.folder))
        model.set_dtype(dtype)
        print(f"\n{dtype}")
        for question in QUESTIONS:
            answer, margin = greedy(model, tokenizer, question)
            print(f"{margin:6.2f}  {question} -> {answer}")
        for name, conversations in Corpus(args.seed).test_sets(args.size).items():
            right = sum(is_right(model, tokenizer, each) for each in conversations)
            print(f"{right / len(conversations):7.2%} of {len(conversations)}: {name}", flush=True)


if __name__ == "__main__":
    main()
