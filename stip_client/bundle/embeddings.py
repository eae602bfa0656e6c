"""The embedding table, read row by row through a memory map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stip_client.errors import BundleError, RequestError
from stip_model.bundle.mapped_tensors import map_tensors


class EmbeddingTable:
    """The one tensor of embeddings.safetensors, [vocab_size, hidden_size]. Raises BundleError.

    `table` is a memory map: only the rows in use are read from disk.
    """

    def __init__(self, path: Path) -> None:
        tensors = list(map_tensors(path).values())
        if len(tensors) != 1 or tensors[0].ndim != 2:
            raise BundleError(f"{path} is not an embedding table: it holds other than one matrix")
        self.table: NDArray[Any] = tensors[0]
        self.vocab_size, self.hidden_size = self.table.shape

    def rows(self, token_ids: Sequence[int]) -> NDArray[Any]:
        """The embeddings of some tokens, [len(token_ids), hidden_size], in the table's type.

        Raises RequestError for a token outside the vocabulary.
        """
        for token in token_ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(
                    f"token {token} is outside the vocabulary of {self.vocab_size} tokens"
                )
        return self.table[np.asarray(token_ids, np.intp)]
