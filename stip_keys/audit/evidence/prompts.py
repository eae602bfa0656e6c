"""What users of the audited conversations say: from a file, built in, or random tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stip_keys.audit.evidence.prompt_text import USER, Prompt, PromptEncoder
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.masks.errors import KeysError

# Of random prompts, where a checkpoint has no tokenizer.
RANDOM_PROMPTS = 48
RANDOM_LENGTHS = (8, 24)
# Enough to divide among traffic and what an attacker knows of the language.
FEWEST = 2


def make_prompts(checkpoint: Checkpoint, file: Path | None, seed: int = 0) -> list[Prompt]:
    """The prompts of `file`, or the built-in ones; random tokens where there is no tokenizer.

    A line of the file is a text, or a JSON list of token ids. Raises KeysError for a file with
    nothing that can be sent.
    """
    has_text = (checkpoint.folder / "tokenizer.json").exists()
    vocab_size = checkpoint.config.vocab_size
    if file is None and not has_text:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(*RANDOM_LENGTHS, RANDOM_PROMPTS)
        return [_all_user(rng.integers(vocab_size, size=length)) for length in lengths]
    text = PromptEncoder(checkpoint.folder) if has_text else None
    lines = BUILT_IN if file is None else _lines(file)
    prompts = []
    for number, line in enumerate(lines, 1):
        tokens = _token_ids(line)
        if tokens is None:
            if text is None:
                raise KeysError(
                    f"{file}, line {number}: the checkpoint has no tokenizer for a text",
                    hint="give token ids: one JSON list a line",
                )
            prompts.append(text.encode(line))
        elif not tokens or not all(0 <= token < vocab_size for token in tokens):
            raise KeysError(
                f"{file}, line {number}: token ids must be one or more of 0..{vocab_size - 1}"
            )
        else:
            prompts.append(_all_user(np.array(tokens)))
    return prompts


def _lines(file: Path) -> list[str]:
    try:
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise KeysError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KeysError(f"{file} is not UTF-8 text") from error
    if len(lines) < FEWEST:
        raise KeysError(
            f"{file} holds {len(lines)} prompts, the audit needs {FEWEST} or more",
            hint="one prompt a line; half of them show attackers what such text is like",
        )
    return lines


def _token_ids(line: str) -> list[int] | None:
    """The list that a line holds; None for a text."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    listed = isinstance(content, list) and all(type(each) is int for each in content)
    return content if listed else None


def _all_user(tokens: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Prompt:
    return Prompt(tokens, np.full(len(tokens), USER))


# Small talk and questions as the demo model was trained for; any other model can be asked them too.
BUILT_IN = (
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
    "Good morning! What is the capital of Italy?",
    "What is the opposite of hot?",
    "What sound does a dog make?",
    "Where do penguins live?",
    "What language do they speak in Brazil?",
    "What do bees make?",
    "How many days are in a week?",
    "What month comes after March?",
    "What is the past tense of go?",
    "What is 12 minus 5?",
    "Please tell me the capital of Spain.",
    "Which animal is the largest?",
    "What colour is grass?",
    "What is a baby cat called?",
    "How many legs does a dog have?",
    "What is the capital of Germany, please?",
    "What do cows eat?",
    "What day comes after Friday?",
    "Repeat after me: a red house by the river",
    "Say the words green apple and nothing else",
    "What is the opposite of big?",
    "What is 6 times 7?",
    "How are you today?",
    "What can you do?",
    "Who made you?",
    "What is a hidden state?",
    "Why are the weights permuted?",
    "What does the client send?",
    "Is my text safe?",
    "What is a token?",
    "What is the currency of Japan?",
    "What is the capital of Egypt?",
    "Which continent is Kenya in?",
    "How do you say thank you in French?",
    "How do you say goodbye in Spanish?",
    "Spell the word house.",
    "What is the plural of mouse?",
    "What season comes after winter?",
    "How many months are in a year?",
    "What is the first month of the year?",
    "What colour is a banana?",
    "What is the sun?",
    "What is snow made of?",
    "Where does the sun rise?",
    "What is the tallest animal?",
    "What is the fastest animal on land?",
    "Do fish sleep?",
    "My name is Anna. What is my name?",
    "I like tea. What do I like?",
    "What is the capital of Canada?",
    "What is the capital of Norway?",
    "Tell me something about cats.",
    "What is 20 plus 22?",
    "What is half of ten?",
    "Is seven an odd number?",
    "What shape has three sides?",
    "Good evening!",
    "See you later!",
    "I am tired.",
    "You are very helpful.",
    "Can you help me?",
    "What is the weather like?",
    "What time is it?",
)
