"""What the bundles of a model hold: every tensor, where it comes from and how it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from stip.v1.manifest_pb2 import ModelConfig
from stip_keys.convert.checkpoint import StoredTensor
from stip_keys.convert.converted_tensor import ConvertedTensor
from stip_keys.convert.errors import CheckpointError
from stip_keys.convert.families import architecture
from stip_keys.convert.families.family import NORMS, Axes, Space, extent
from stip_keys.convert.schemes.permutation import Spaces
from stip_keys.convert.schemes.rotated_tensor import RotatedTensor
from stip_keys.convert.schemes.rotation import RotatedSpaces
from stip_keys.masks.derivation import Indices
from stip_keys.masks.errors import KeysError
from stip_keys.masks.permutation import IDENTITY
from stip_model.bundle.weight_types import WEIGHT_TYPES, WeightType

TAU = "tau"


class BundleTensor(Protocol):
    """One tensor of a bundle."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> WeightType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    def ranges(self) -> Iterator[NDArray[Any]]: ...


@dataclass(frozen=True)
class PlannedFile:
    """One safetensors file: its tensors in order, and a tau under its name, where it has one."""

    name: str
    tensors: Sequence[BundleTensor]
    tau: tuple[str, Indices] | None = None


class Plan:
    """The files of the bundles that a model's tensors and a key's spaces make.

    Raises CheckpointError naming a tensor that is unknown, missing or misshapen.
    """

    def __init__(
        self,
        config: ModelConfig,
        sources: Mapping[str, StoredTensor],
        spaces: Spaces | RotatedSpaces,
        *,
        head: str = "server",
        dtype: str = "auto",
    ) -> None:
        self._config = config
        self._sources = sources
        self._spaces = spaces
        self._head = head
        self._dtype_name = dtype
        self._architecture = architecture(config.model_type)

    def server_files(self) -> Iterator[PlannedFile]:
        """The server bundle's, in order; each layer's is planned when it is asked for."""
        layers = self._config.num_hidden_layers
        width = max(2, len(str(layers - 1)))
        for layer in range(layers):
            yield self._layer_file(layer, f"layer_{layer:0{width}}.safetensors")
        if self._head != "client":
            norm, head = self._architecture.final_norm, self._architecture.head
            tensors = [self._made(norm, "", (Space.RESIDUAL_IN,), self._spaces.final())]
            tensors.append(self._made(head, "", self._head_axes, self._spaces.final()))
            yield PlannedFile("non_layer_part_00.safetensors", [each for each in tensors if each])

    def client_files(self) -> Iterator[PlannedFile]:
        """The client bundle's: what it embeds with, and where the head is its own, the head."""
        names = self._architecture
        yield PlannedFile("embeddings.safetensors", [self._plain(names.embedding)])
        if self._head == "client":
            tensors = [self._plain(names.final_norm)]
            if not self._config.tie_word_embeddings:
                tensors.append(self._plain(names.head))
            yield PlannedFile("head.safetensors", tensors)

    @property
    def dtype(self) -> WeightType:
        """The type of the bundles' weights: the embedding table's."""
        return self._dtype(self._sources[self._architecture.embedding])

    def check(self, *, converted: bool = False) -> None:
        """Compare the sources with what the model type has.

        `converted`: the sources are a server bundle's, which holds no embedding table, and head
        and final norm only where they are the server's.
        """
        found, names = self._sources, self._architecture
        expected: dict[str, Axes] = {}
        for layer in range(self._config.num_hidden_layers):
            prefix = names.layer_prefix.format(layer=layer)
            for name, axes in names.layer_tensors(self._config).items():
                expected[prefix + name] = axes
        expected[names.final_norm] = (Space.RESIDUAL_IN,)
        expected[names.embedding] = self._head_axes
        if not self._config.tie_word_embeddings or names.head in found:
            expected[names.head] = self._head_axes
        if converted:
            del expected[names.embedding]
            expected[names.head] = self._head_axes
            if self._head == "client":
                del expected[names.final_norm], expected[names.head]
        source, told = ("bundle", "its manifest") if converted else ("checkpoint", "config.json")
        for name, axes in expected.items():
            if name not in found:
                raise CheckpointError(f"tensor {name} is missing from the {source}")
            shape = tuple(extent(axis, self._config) for axis in axes)
            if found[name].shape != shape:
                raise CheckpointError(
                    f"tensor {name} has shape {list(found[name].shape)}, "
                    f"{told} implies {list(shape)}"
                )
        for name in found:
            if name not in expected and not name.endswith(names.ignored):
                raise CheckpointError(
                    f"tensor {name} is unknown in a {self._config.model_type} checkpoint",
                    hint="converting it away silently could change the model's answers",
                )

    _head_axes = (Space.VOCABULARY, Space.RESIDUAL_IN)

    def _layer_file(self, layer: int, name: str) -> PlannedFile:
        prefix = self._architecture.layer_prefix.format(layer=layer)
        spaces = self._spaces.layer(layer)
        tensors = [
            self._made(each, prefix, axes, spaces)
            for each, axes in self._architecture.layer_tensors(self._config).items()
        ]
        tau = None if isinstance(self._spaces, RotatedSpaces) else self._spaces.tau(layer)
        made = [each for each in tensors if each]
        return PlannedFile(name, made, None if tau is None else (prefix + TAU, tau))

    def _made(
        self, name: str, prefix: str, axes: Axes, spaces: Mapping[Space, Any]
    ) -> BundleTensor | None:
        """A tensor in the spaces of its axes; None for a norm that went into what follows it."""
        source = self._source(prefix + name)
        order = self._spaces.vocabulary() if axes[0] is Space.VOCABULARY else None
        if isinstance(self._spaces, RotatedSpaces):
            if name in {*NORMS.values(), self._architecture.final_norm}:
                return None
            norm = self._architecture.final_norm if name == self._architecture.head else None
            norm = prefix + NORMS[name] if name in NORMS else norm
            rows, *columns = [spaces.get(axis) for axis in axes]
            return RotatedTensor(
                prefix + name,
                source,
                self._dtype(source),
                rows,
                columns[0] if columns else None,
                None if norm is None else self._sources[norm],
                order,
            )
        rows, *columns = [spaces.get(axis, IDENTITY) for axis in axes]
        gathered = columns[0] if columns else IDENTITY
        if gathered.negate is not None:
            raise KeysError(f"{name}: signs on the columns of a tensor are not supported")
        return ConvertedTensor(prefix + name, source, self._dtype(source), rows, gathered, order)

    def _source(self, name: str) -> StoredTensor:
        # where the head is tied, a head that the checkpoint stores all the same is not read
        tied = self._config.tie_word_embeddings and self._architecture.embedding in self._sources
        if name == self._architecture.head and tied:
            name = self._architecture.embedding
        return self._sources[name]

    def _plain(self, name: str) -> ConvertedTensor:
        source = self._sources[name]
        return ConvertedTensor(name, source, self._dtype(source))

    def _dtype(self, source: StoredTensor) -> WeightType:
        return source.dtype if self._dtype_name == "auto" else WEIGHT_TYPES[self._dtype_name]
