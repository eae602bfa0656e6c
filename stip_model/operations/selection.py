"""The largest logits of every row, and the sum that makes probabilities of them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def top_k(logits: mx.array, k: int) -> tuple[mx.array, mx.array, mx.array]:
    """Of float32 logits [rows, vocab_size]: the k largest of each row in descending order and their
    indices (int32), both [rows, k], and the logarithm of the sum of the row's exponentials [rows].
    """
    if k == 1:
        indices = mx.argmax(logits, axis=-1, keepdims=True)
    else:
        largest = mx.argpartition(-logits, k - 1, axis=-1)[:, :k]
        order = mx.argsort(-mx.take_along_axis(logits, largest, axis=-1), axis=-1)
        indices = mx.take_along_axis(largest, order, axis=-1)
    values = mx.take_along_axis(logits, indices, axis=-1)
    return values, indices.astype(mx.int32), mx.logsumexp(logits, axis=-1)


def top_k_on_host(logits: mx.array, k: int) -> tuple[mx.array, mx.array, mx.array]:
    """The same by NumPy, which has a vector exp and a faster partition than MLX's CPU kernels.

    Measured (two cores of an EPYC with AVX2, 8 rows of 151,936), ms: the sum 7.4 instead of 18; the
    64 largest 4.3 instead of 15.
    """
    mx.eval(logits)
    rows = np.asarray(logits)
    indices = np.empty((len(rows), k), np.int32)
    log_sum_exp = np.empty(len(rows), np.float32)
    for number, row in enumerate(rows):
        if k == 1:
            indices[number] = row.argmax()
        else:
            largest = np.argpartition(row, len(row) - k)[-k:]
            indices[number] = largest[np.argsort(-row[largest])]
        greatest = row[indices[number, 0]]
        with np.errstate(invalid="ignore"):  # of a greatest that is infinite
            log_sum_exp[number] = greatest + np.log(np.exp(row - greatest).sum())
    values = np.take_along_axis(rows, indices, axis=-1)
    return mx.array(values), mx.array(indices), mx.array(log_sum_exp)
