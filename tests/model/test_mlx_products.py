"""Products whose shared dimension BLIS does not read beyond."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from stip_model.bundle.manifest import ServerBundle
from stip_model.loading import load_model
from stip_model.operations.blas import LIBRARIES
from stip_model.operations.mlx import MULTIPLE, Linear, MlxOperations
from tests.support.waiting import PATIENCE

# Multiplies m rows whose end is the end of what may be read.
GUARDED = """
import ctypes, mmap, sys
import numpy as np
blas, (k, *rows) = ctypes.CDLL(sys.argv[1]), map(int, sys.argv[2:])
size, page, pointer, one = 1 << 16, mmap.PAGESIZE, ctypes.c_void_p, ctypes.c_float(1)
memory = mmap.mmap(-1, size + page)
end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size
assert ctypes.CDLL(None).mprotect(pointer(end), page, 0) == 0
for m in rows:
    for n in (1, 60, 88, 151, 513):
        weight, result = np.ones((n, k), np.float32), np.zeros((m, n), np.float32)
        blas.cblas_sgemm(101, 111, 112, m, n, k, one, pointer(end - 4 * m * k), k,
            pointer(weight.ctypes.data), k, ctypes.c_float(0), pointer(result.ctypes.data), n)
"""


@pytest.mark.parametrize("k", [MULTIPLE, 64, 88, 96])
def test_blis_reads_no_row_that_is_not_there(k: int) -> None:
    library = LIBRARIES["blis"]
    try:
        ctypes.CDLL(library)
    except OSError:
        pytest.skip(f"there is no {library} here")
    command = [sys.executable, "-c", GUARDED, library, str(k), *map(str, range(1, 27))]
    assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == 0


@pytest.mark.parametrize("bias", [None, mx.arange(3.0)])
@pytest.mark.parametrize("columns", [7, 8, 60])
def test_a_padded_product_is_the_product(columns: int, bias: mx.array | None) -> None:
    draw = np.random.default_rng(columns)
    x, weight = (draw.integers(-9, 9, (n, columns)).astype(np.float32) for n in (5, 3))
    operations = MlxOperations("cpu", mx.float32)
    tensors = {"p.weight": mx.array(weight)} | ({} if bias is None else {"p.bias": bias})
    weights = operations.linear_weights(tensors, "p")
    assert weights.weight.shape[1] % MULTIPLE == 0
    found = operations.linear(mx.array(x), weights)
    expected = x @ weight.T + (0 if bias is None else np.asarray(bias))
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_every_weight_of_a_model_is_padded(tiny_bundles: Path) -> None:
    bundle = ServerBundle(tiny_bundles / "server")
    assert bundle.manifest.model.hidden_size % MULTIPLE
    model = load_model(bundle, MlxOperations("cpu", mx.float32))
    linears = [each for layer in model.layers for each in layer.weights if isinstance(each, Linear)]
    assert len(linears) == 4 * len(model.layers)
    for linear in (*linears, model.lm_head):
        assert linear.weight.shape[1] % MULTIPLE == 0
