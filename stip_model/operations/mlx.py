"""Operations on MLX: Metal, CUDA, and a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from stip_model.errors import BundleError
from stip_model.operations.operations import Operations, Span

# BLIS 0.9.0, Debian's, reads a row beyond the first operand where the shared dimension is no
# multiple of this and the rows do not fill its kernel (bli_sgemmsup_rd_haswell). Where that memory
# is not mapped the process dies. No published model is so; the tests' random ones are.
MULTIPLE = 8


class Linear(NamedTuple):
    """Weight [out, in], padded, and bias [out]."""

    weight: mx.array
    bias: mx.array | None


class MlxOperations:
    """Lazy: MLX collects what is asked for, and computes it when it is evaluated."""

    def __init__(self, device: str, dtype: mx.Dtype, *, fused: bool = False) -> None:
        self.device = device
        self.dtype = str(dtype).removeprefix("mlx.core.")
        self.itemsize = int(dtype.size)
        self._dtype = dtype
        self._rope = mx.compile(rope) if fused else rope
        self._swiglu = mx.compile(swiglu) if fused else swiglu

    def load_tensors(self, path: Path) -> dict[str, mx.array]:
        try:
            return cast(dict[str, mx.array], mx.load(str(path)))
        except RuntimeError as error:
            raise BundleError(f"{path} is not a safetensors file: {error}") from error

    def linear_weights(self, tensors: Mapping[str, mx.array], *names: str) -> Linear:
        weights, biases = (
            [tensors[key].astype(self._dtype) for name in names if (key := name + part) in tensors]
            for part in (".weight", ".bias")
        )
        return Linear(padded(_joined(weights)), _joined(biases) if biases else None)

    def norm_weight(self, tensor: mx.array) -> mx.array:
        return tensor.astype(self._dtype)

    def from_host(self, rows: NDArray[Any]) -> mx.array:
        return mx.array(rows).astype(self._dtype)

    def to_host(self, array: mx.array, dtype: type[np.generic]) -> NDArray[Any]:
        return np.asarray(array.astype(getattr(mx, dtype.__name__)))

    def evaluate(self, *arrays: Any) -> None:
        mx.eval(*arrays)

    def linear(self, x: mx.array, weights: Linear) -> mx.array:
        weight, bias = weights
        if missing := weight.shape[1] - x.shape[1]:
            x = mx.pad(x, [(0, 0), (0, missing)])
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)

    def rms_norm(self, x: mx.array, weight: mx.array | None, eps: float) -> mx.array:
        return mx.fast.rms_norm(x, weight, eps)

    def rope_tables(
        self, cosines: NDArray[np.float32], sines: NDArray[np.float32]
    ) -> tuple[mx.array, mx.array]:
        return mx.array(cosines), mx.array(sines)

    def rope(self, x: mx.array, tables: tuple[mx.array, mx.array]) -> mx.array:
        return self._rope(x, *tables)

    def attention(self, queries: mx.array, spans: Sequence[Span], scale: float) -> mx.array:
        """A session at a time, over its cache where it lies.

        Measured on a CPU (two cores, 24 layers of 14 heads and 2 key/value heads of 64, float32),
        ms an iteration of 8 sessions with 64 / 512 / 2,048 tokens each: so 10 / 43 / 143. Copied
        into one padded batch: 9 / 52 / 173. If all lay in one array: 6 / 36 / 140, but then no
        session could grow, fork and be freed by itself. On a GPU each launch costs.
        """
        outputs = []
        for start, stop, keys_values, length in spans:
            attended = mx.fast.scaled_dot_product_attention(
                queries[None, start:stop].swapaxes(1, 2),
                keys_values[:1, :, :length],
                keys_values[1:, :, :length],
                scale=scale,
                mask="causal" if stop - start > 1 else None,
            )
            outputs.append(attended.swapaxes(1, 2).reshape(stop - start, -1))
        return _joined(outputs)

    def swiglu(self, gate_up: mx.array) -> mx.array:
        return self._swiglu(gate_up)

    def gather(self, x: mx.array, indices: mx.array) -> mx.array:
        return mx.take(x, indices, axis=-1)

    def concatenate(self, arrays: Sequence[mx.array]) -> mx.array:
        return _joined(arrays)

    def top_k(
        self, logits: mx.array, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        logits = logits.astype(mx.float32)
        if k == 1:
            indices = mx.argmax(logits, axis=-1, keepdims=True)
        else:
            largest = mx.argpartition(-logits, k - 1, axis=-1)[:, :k]
            order = mx.argsort(-mx.take_along_axis(logits, largest, axis=-1), axis=-1)
            indices = mx.take_along_axis(largest, order, axis=-1)
        values = mx.take_along_axis(logits, indices, axis=-1)
        found = values, indices.astype(mx.int32), mx.logsumexp(logits, axis=-1)
        mx.eval(found)
        return np.asarray(found[0]), np.asarray(found[1]), np.asarray(found[2])

    # Keys and values lie in one array, [2, num_key_value_heads, capacity, head_dim]: on a GPU every
    # write is a kernel launch.

    def new_keys_values(self, num_heads: int, head_dim: int, capacity: int) -> mx.array:
        return mx.zeros((2, num_heads, capacity, head_dim), self._dtype)

    def enlarge(self, keys_values: mx.array, length: int, capacity: int) -> mx.array:
        _, heads, _, head_dim = keys_values.shape
        fresh = self.new_keys_values(heads, head_dim, capacity - length)
        enlarged = mx.concatenate([keys_values[:, :, :length], fresh], axis=2)
        mx.eval(enlarged)
        return enlarged

    def join_keys_values(self, keys: mx.array, values: mx.array) -> mx.array:
        # keys and values each in one piece, as `write` copies them
        return mx.stack([keys, values]).swapaxes(0, 1)

    def write(self, keys_values: mx.array, position: int, rows: mx.array) -> None:
        end = position + rows.shape[0]
        keys_values[..., position:end, :] = rows.transpose(1, 2, 0, 3)

    @property
    def active_bytes(self) -> int:
        return int(mx.get_active_memory())

    @property
    def cached_bytes(self) -> int:
        return int(mx.get_cache_memory())

    def memory_left(self, host_left: int) -> int:
        if self.device == "cpu":
            return host_left
        info = mx.device_info()
        if self.device == "metal":  # unified memory: what macOS lets the GPU have
            most = int(info["max_recommended_working_set_size"])
            return max(0, min(most - self.active_bytes, host_left))
        return int(info.get("free_memory", int(info["total_memory"]) - self.active_bytes))

    def clear_cache(self) -> None:
        mx.clear_cache()

    def set_wired_limit(self, size: int) -> None:
        try:
            mx.set_wired_limit(size)
        except RuntimeError as error:
            raise ValueError(str(error)) from error


def open_operations(*, cpu: bool, dtype: str, bundle_dtype: str, fused: bool) -> Operations:
    """See stip_model.operations.operations.

    "auto" is the bundle's type on a GPU and float32 on a CPU, where MLX's half-precision kernels
    are many times slower.
    """
    from stip_model.operations.mlx_host import MlxHostOperations

    on_cpu = cpu or not (mx.metal.is_available() or mx.cuda.is_available())
    mx.set_default_device(mx.cpu if on_cpu else mx.gpu)
    device = "cpu" if on_cpu else "metal" if mx.metal.is_available() else "cuda"
    if dtype == "auto":
        dtype = "float32" if on_cpu else bundle_dtype
    suited = MlxHostOperations if on_cpu and dtype == "float32" else MlxOperations
    return suited(device, getattr(mx, dtype), fused=fused)


def rope(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """Operations.rope, which mx.compile can make one kernel of."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    rotated = mx.concatenate(
        [first * cosines - second * sines, second * cosines + first * sines], axis=-1
    )
    return rotated.astype(x.dtype)


def swiglu(gate_up: mx.array) -> mx.array:
    """Operations.swiglu, which mx.compile can make one kernel of."""
    gate, up = mx.split(gate_up, 2, axis=-1)
    return gate * mx.sigmoid(gate) * up


def padded(weight: mx.array) -> mx.array:
    """Return a weight [out, in] with zeros behind each row, up to a multiple of MULTIPLE."""
    missing = -weight.shape[1] % MULTIPLE
    return mx.pad(weight, [(0, 0), (0, missing)]) if missing else weight


def _joined(arrays: Sequence[mx.array]) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate(list(arrays))
