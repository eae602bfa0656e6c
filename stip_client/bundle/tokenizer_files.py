"""The tokenizer files of a bundle: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stip_client.errors import BundleError

TOKENIZER = "tokenizer.json"


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file. Raises BundleError.

    A file may store truncation and padding from the model's training. Both are switched off: they
    would cut or lengthen a prompt.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise BundleError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none. Raises BundleError."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BundleError(f"{path} is not a JSON object")
    return content


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """The text of each special token by its field: eos_token, bos_token and so on."""
    texts = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in config.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}
