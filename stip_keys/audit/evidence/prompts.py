"""The prompts of the audited conversations: from a file, built in, or random tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from stip_keys.audit.evidence.prompt_text import USER, Prompt, PromptEncoder
from stip_keys.convert.checkpoint import Checkpoint
from stip_keys.masks.errors import KeysError

# Small talk and questions as the demo model was trained for; any other model can answer them too.
BUILT_IN = Path(__file__).with_name("built_in_prompts.txt")
# How many random prompts are made for a checkpoint without a tokenizer, and how long they are.
RANDOM_PROMPTS = 48
RANDOM_LENGTHS = (8, 24)
# One for the traffic, one that shows attackers what the language is like.
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
        random = [rng.integers(vocab_size, size=length) for length in lengths]
        return [Prompt(tokens, np.full(len(tokens), USER)) for tokens in random]
    text = PromptEncoder(checkpoint.folder) if has_text else None
    prompts = []
    for number, line in enumerate(_lines(file or BUILT_IN), 1):
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
            prompts.append(Prompt(np.array(tokens), np.full(len(tokens), USER)))
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
