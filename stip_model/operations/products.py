"""Products of rows with a weight, [rows, in] x [out, in]^T."""

from __future__ import annotations

import mlx.core as mx

# BLIS 0.9.0, Debian's, reads one row of its first operand that is not there where the shared
# dimension is no multiple of this and the rows do not fill its kernel (bli_sgemmsup_rd_haswell):
# where the memory behind is not mapped, the process dies of it. No published model is so; the
# tests' random ones are.
MULTIPLE = 8


def padded(weight: mx.array) -> mx.array:
    """A weight [out, in] with zeros behind each row, up to a multiple of MULTIPLE."""
    missing = -weight.shape[1] % MULTIPLE
    return mx.pad(weight, [(0, 0), (0, missing)]) if missing else weight


def product(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x [rows, in] times a padded weight, and a bias [out] if there is one: [rows, out]."""
    if missing := weight.shape[1] - x.shape[1]:
        x = mx.pad(x, [(0, 0), (0, missing)])
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
