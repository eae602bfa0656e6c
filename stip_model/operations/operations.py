"""What the decoder, the cache and the engine ask of the device that computes.

All of it is used on one thread, the engine's; active_bytes and cached_bytes from any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

# An array of the device. It has a shape and a dtype. It is sliced and reshaped as in NumPy, and can
# be added.
Array: TypeAlias = Any
# The opaque forms in which a set of operations keeps things.
LinearWeights: TypeAlias = Any  # weight and bias of stacked projections
RopeTables: TypeAlias = Any  # cosines and sines of the rows of a batch
KeysValues: TypeAlias = Any  # keys and values of a layer of a session; has nbytes


class Span(NamedTuple):
    """The rows [start, stop) of a batch, which are one session's latest, and what they attend to.

    That is the first `length` rows of `keys_values`. The last of them are the span's own.
    """

    start: int
    stop: int
    keys_values: KeysValues
    length: int


class Operations(Protocol):
    """Loads weights, computes with them and keeps keys and values, in one element type.

    What a method returns may be computed later: `evaluate` computes it now.
    """

    device: str  # "cpu", "metal" or "cuda"
    dtype: str  # of activations, keys and values: "float16", "bfloat16" or "float32"
    itemsize: int  # bytes of an element of that type

    # -- weights -------------------------------------------------------------------------------

    def load_tensors(self, path: Path) -> dict[str, Array]:
        """Return the tensors of a safetensors file as they are stored. Raises BundleError."""

    def linear_weights(self, tensors: Mapping[str, Array], *names: str) -> LinearWeights:
        """Return projections, stacked: NAME.weight [out, in] and, if there, NAME.bias [out]."""

    def norm_weight(self, tensor: Array) -> Array:
        """Return a stored norm weight [hidden_size] for rms_norm."""

    # -- between the host and the device -------------------------------------------------------

    def from_host(self, rows: NDArray[Any]) -> Array:
        """Return floats of any type as activations."""

    def to_host(self, array: Array, dtype: type[np.generic]) -> NDArray[Any]:
        """Return an array, evaluated, as a NumPy array of float16, float32 or int32."""

    def evaluate(self, *arrays: Any) -> None:
        """Compute arrays, weights, keys and values, or lists of them. Raises what that raises."""

    # -- layers --------------------------------------------------------------------------------

    def linear(self, x: Array, weights: LinearWeights) -> Array:
        """Return x W^T + b: x [rows, in] to [rows, out]."""

    def rms_norm(self, x: Array, weight: Array | None, eps: float) -> Array:
        """Return rows divided by their root mean square, times `weight` if there is one."""

    def rope_tables(self, cosines: NDArray[np.float32], sines: NDArray[np.float32]) -> RopeTables:
        """Return what `rope` turns rows by: two arrays [rows, 1, head_dim / 2]."""

    def rope(self, x: Array, tables: RopeTables) -> Array:
        """Turn the planes (j, j + head_dim / 2) of every head: x [rows, heads, head_dim]."""

    def attention(self, queries: Array, spans: Sequence[Span], scale: float) -> Array:
        """Causal attention, each span's rows to their own session's keys and values.

        queries [rows, num_heads, head_dim] to [rows of the spans, num_heads * head_dim].
        """

    def swiglu(self, gate_up: Array) -> Array:
        """Return silu(gate) * up: [rows, 2 * intermediate_size] to [rows, intermediate_size]."""

    def gather(self, x: Array, indices: Array) -> Array:
        """Return x[..., indices], where the indices are a stored tensor."""

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Return the rows of several arrays as one."""

    def top_k(
        self, logits: Array, k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        """Return the k largest of each row in descending order, their indices, and log-sum-exps.

        logits [rows, vocab_size] to two arrays [rows, k], and [rows] over the whole row.
        """

    # -- keys and values -----------------------------------------------------------------------

    def new_keys_values(self, num_heads: int, head_dim: int, capacity: int) -> KeysValues:
        """Return a layer's storage for `capacity` rows."""

    def enlarge(self, keys_values: KeysValues, length: int, capacity: int) -> KeysValues:
        """Return a copy of the first `length` rows, evaluated, in a storage of `capacity` rows."""

    def join_keys_values(self, keys: Array, values: Array) -> Array:
        """Return rows for `write`, from two arrays [rows, num_key_value_heads, head_dim]."""

    def write(self, keys_values: KeysValues, position: int, rows: Array) -> None:
        """Put rows into a storage, from row `position` on."""

    # -- memory of the device, in bytes --------------------------------------------------------

    @property
    def active_bytes(self) -> int:
        """Bytes in arrays."""

    @property
    def cached_bytes(self) -> int:
        """Freed bytes that are kept for the next arrays."""

    def memory_left(self, host_left: int) -> int:
        """Return how much more the arrays may take, on a host with `host_left` free bytes."""

    def clear_cache(self) -> None:
        """Give freed bytes back to the system."""

    def set_wired_limit(self, size: int) -> None:
        """Let macOS keep `size` bytes wired. Raises ValueError."""
