"""What a scheme does to one model with one key. Knows no particular scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Generic, Self, TypeVar

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.families.family import Space
from stip_keys.convert.schemes.masked_tensor import MaskedTensor, SourceTensor
from stip_keys.masks import derivation
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeysError
from stip_keys.masks.keys import ClientKey, MasterKey

AxisMap = TypeVar("AxisMap")
HeadMap = TypeVar("HeadMap")


class Masking(ABC, Generic[AxisMap]):
    """One scheme with one key, applied to one model.

    `client_key` is the part of the key that clients get. `blocks` is the number of equal blocks
    of each residual permutation, 1 in a scheme without blocks.
    """

    name: ClassVar[str]
    has_blocks: ClassVar[bool] = False
    client_key: ClientKey
    blocks = 1

    def __init__(self, config: ModelConfig, blocks: int | None) -> None:
        """Raises KeysError for blocks in a scheme that has none.

        A subclass takes `(config, key, head, blocks)`.
        """
        if blocks is not None and not self.has_blocks:
            raise KeysError(f"scheme {self.name} has no blocks", hint="leave --blocks out")
        self._config = config

    @abstractmethod
    def layer(self, layer: int) -> Mapping[Space, AxisMap]:
        """What takes each axis of a layer's tensors into its space."""

    @abstractmethod
    def final(self) -> Mapping[Space, AxisMap]:
        """The same for the final norm and the head."""

    @abstractmethod
    def tensor(self, source: SourceTensor, spaces: Mapping[Space, AxisMap]) -> MaskedTensor | None:
        """The masked tensor; None where the scheme folds it into others."""

    def tau(self, layer: int) -> Indices | None:  # noqa: ARG002
        """A layer's relative permutation; None where the residual stream keeps its space."""
        return None

    def vocabulary(self) -> Indices | None:
        """The order of the head's rows: int64 [vocab_size]; None is vocabulary order."""
        return self.client_key.sealed_order(self._config.vocab_size)

    def rekeyed(self, new: Self) -> Masking[AxisMap]:  # noqa: ARG002
        """What makes `new`'s server bundle from this one's. Raises KeysError where none can."""
        raise KeysError(
            f"bundles of scheme {self.name} cannot be re-keyed",
            hint="convert the checkpoint again with the new key",
        )

    def needed(self, key: MasterKey | None) -> MasterKey:
        """The key of a scheme that needs one. Raises KeysError without a key."""
        if key is None:
            raise KeysError(f"scheme {self.name!r} without a key")
        return key

    def row_order(self, source: SourceTensor) -> Indices | None:
        """The order of a tensor's rows where they are the vocabulary; None for other tensors."""
        return self.vocabulary() if source.axes[0] is Space.VOCABULARY else None


def attention_maps(
    key: MasterKey,
    config: ModelConfig,
    layer: int,
    turns: Callable[[int], HeadMap],
    values: Callable[[int], HeadMap],
) -> dict[Space, list[tuple[int, HeadMap]]]:
    """What each slot of a layer's heads holds: an original head, and the map of its head_dim.

    `turns` and `values` give an original key/value head's map of queries and keys, and of values.
    """
    group = config.num_attention_heads // config.num_key_value_heads
    maps: dict[Space, list[tuple[int, HeadMap]]] = {
        space: [] for space in (Space.QUERY, Space.KEY, Space.VALUE, Space.ATTENTION)
    }
    for kv in map(int, key.permutation(derivation.heads_label(layer), config.num_key_value_heads)):
        turned, mixed = turns(kv), values(kv)
        maps[Space.KEY].append((kv, turned))
        maps[Space.VALUE].append((kv, mixed))
        for member in map(int, key.permutation(derivation.group_label(layer, kv), group)):
            maps[Space.QUERY].append((kv * group + member, turned))
            maps[Space.ATTENTION].append((kv * group + member, mixed))
    return maps
