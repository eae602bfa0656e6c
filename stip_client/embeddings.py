"""The embedding table, read row by row through a memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy, and so to safetensors
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stip_client.errors import BundleError, RequestError


class EmbeddingTable:
    """The one tensor of embeddings.safetensors, [vocab_size, hidden_size]. Raises BundleError.

    Only the rows asked for are read from disk.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="np")
            (name,) = self._file.keys()
            self._table = self._file.get_slice(name)
            self.vocab_size, self.hidden_size = self._table.get_shape()
        except (SafetensorError, OSError, ValueError) as error:
            raise BundleError(f"{path} is not an embedding table: {error}") from error

    def rows(self, token_ids: Sequence[int]) -> NDArray[Any]:
        """The embeddings of some tokens, [len(token_ids), hidden_size], in the table's type.

        Raises RequestError for a token outside the vocabulary.
        """
        for token in token_ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"token {token} is outside the vocabulary of {self.vocab_size} tokens"
                )
        return np.concatenate([self._table[token : token + 1] for token in token_ids])
